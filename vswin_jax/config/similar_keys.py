"""Finds the settings that a wrong config key may mean, among those of the whole config.

People know settings by their names in other programs, so besides similar spellings there is a table
of the words of timm, mmaction2, torchvision, big_vision and the Trainer of Hugging Face.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

_MOST = 4  # suggestions in an error
_CLOSE = 0.75  # as `difflib` measures

# The words, without underscores, by the settings that they mean.
_WORDS = {
    "optim.learning_rate": "lr baselr peaklr maxlr initlr startlr",
    "optim.weight_decay": "wd decay l2",
    "optim.schedule": "sched scheduler lrscheduler lrschedulertype lrschedule lrpolicy lrconfig",
    "optim.warmup": "warmupepochs warmupsteps lrwarmupepochs warmupiters warmupt",
    "optim.b1": "beta1 adambeta1 betas momentum",
    "optim.b2": "beta2 adambeta2 betas",
    "optim.eps": "epsilon adamepsilon opteps",
    "optim.clip_norm": "clipgrad gradclip maxgradnorm clipgradnorm maxnorm gradclipnorm gradnorm",
    "optim.backbone_multiplier": "layerdecay lrmult backbonelr backbonelrmult paramwise",
    "train.duration": "epochs numepochs maxepochs totalepochs trainepochs numtrainepochs nepochs "
    "steps maxsteps totalsteps numsteps numtrainingsteps trainsteps iterations iters maxiters",
    "train.batch_size": "bs batch batchsize trainbatchsize perdevicetrainbatchsize samplespergpu "
    "videospergpu",
    "eval.batch_size": "batchsize evalbatchsize valbatchsize testbatchsize perdeviceevalbatchsize "
    "validationbatchsize",
    "train.grad_accum_steps": "gradaccum accumulate accumsteps gradientaccumulationsteps accumfreq "
    "updatefreq accumulationsteps accumulategradbatches microbatches",
    "train.ema_decay": "ema modelema modelemadecay",
    "train.log_every": "logsteps loggingsteps loginterval printfreq logfreq logtrainingsteps",
    "train.eval_every": "evalsteps evalinterval valinterval valevery evalfreq valfreq",
    "train.checkpoint_every": "saveevery savesteps saveinterval ckptsteps ckptevery savefreq "
    "checkpointinterval keepckptsteps",
    "train.max_to_keep": "savetotallimit maxkeepckpts keepcheckpoints keep",
    "model.head_dropout_rate": "dropout drop dropoutratio headdropout classifierdropout",
    "model.drop_rate": "dropout drop hiddendropoutprob",
    "model.attn_drop_rate": "attentiondropout attndrop attndropout attentionprobsdropoutprob",
    "model.drop_path_rate": "droppath stochasticdepth stochasticdepthprob dropconnect",
    "model.num_classes": "classes nclasses numlabels nbclasses",
    "model.dtype": "amp fp16 bf16 fp32 precision mixedprecision half autocast",
    "model.name": "model arch architecture modelname backbone variant",
    "model.embed_dim": "dim width hiddensize embeddims embeddingdim channels",
    "model.depths": "depth numlayers layers blocks",
    "model.num_heads": "heads numattentionheads",
    "model.remat": "gradcheckpointing gradientcheckpointing usecheckpoint withcp checkpointing",
    "model.window_size": "window",
    "model.patch_size": "patch tubeletsize",
    "data.num_frames": "frames cliplen cliplength nframes framesperclip sequencelength numsegments",
    "data.frame_interval": "stride framestride temporalstride samplingrate interval samplerate",
    "data.fps": "framerate",
    "data.size": "imgsize imagesize inputsize crop cropsize traincropsize resolution inputres",
    "data.resize": "resizesize shortside shortedge trainresizesize scalesize",
    "eval.resize": "valresizesize evalcroppct croppct testsize evalsize",
    "eval.num_clips": "testclips numensembleviews temporalviews views",
    "eval.num_crops": "testcrops numspatialcrops crops views",
    "data.train": "data dataset traindata traindir trainfile trainpath trainset trainsplit annfile "
    "annfiletrain datadir datapath trainlist",
    "data.eval": "val valid validation test valdata valdir valfile valpath valset valsplit "
    "annfileval evaldata evaldataset evaldir testdata datadir datapath vallist",
    "data.root": "dataroot dataprefix videoroot videodir datadir",
    "data.format": "datatype datasettype annformat",
    "data.label_names": "labels classnames labelfile labelmap categories",
    "data.processes": "workers numworkers dataloadernumworkers loaderworkers j",
    "data.threads": "numthreads decoderthreads",
    "data.prefetch": "prefetchfactor buffersize shufflebuffersize",
    "data.flip": "hflip flipratio horizontalflip flipprob",
    "data.scale": "randomscale rrcscale areascale arearange",
    "data.ratio": "aspect aspectratio aspectratiorange",
    "data.rand_augment.n": "aa autoaugment randaugment randaug aug augmentation augment",
    "data.rand_augment.m": "magnitude",
    "data.class_balance": "balance classweights balanced resample",
    "data.aug_repeats": "repeatedaug augsplits repeats numrepeats",
    "loss.label_smoothing": "smoothing labelsmoothingfactor labelsmootheps",
    "loss.mixup_alpha": "mixup",
    "loss.cutmix_alpha": "cutmix",
    "loss.random_erasing": "reprob erasing randomerase erase cutout",
    "init_from": "pretrained pretrainedpath weights loadfrom finetune initialcheckpoint resume "
    "checkpoint checkpointpath modelnameorpath initcheckpoint ckpt modelinit",
    "seed": "randomseed rngseed",
    "mesh.data": "devices gpus ngpu numgpus numdevices dp",
    "mesh.model": "tensorparallel tp modelparallel tensorparallelsize",
    "mesh.fsdp": "zero shard",
}
_KEYS_OF_WORD: dict[str, list[str]] = {}
for _key, _words in _WORDS.items():
    for _word in _words.split():
        _KEYS_OF_WORD.setdefault(_word, []).append(_key)


def similar_keys(key: str, keys: Iterable[str], *, spelling: bool = True) -> list[str]:
    """List at most a few of `keys`, such as "optim.learning_rate", that the wrong `key` may mean.

    The words of other programs come first, then the same name in another section, then names that
    are spelt similarly or contain each other, unless `spelling` is False.
    """
    plain = {known: _plain(known) for known in keys}
    same = [known for known in plain if plain[known] == _plain(key)]
    last = _last(_plain(key))
    meant = [known for known in _KEYS_OF_WORD.get(last, ()) if known in plain]
    namesakes = [known for known in plain if _last(plain[known]) == last]
    found = same or [*meant, *namesakes]
    if spelling and not found:
        found = _similar_spellings(_plain(key), plain)
    section = key.partition(".")[0].lower()
    # The sort is stable: within a section the order above holds.
    ordered = sorted(dict.fromkeys(found), key=lambda known: not known.startswith(f"{section}."))
    return ordered[:_MOST]


def _similar_spellings(key: str, plain: dict[str, str]) -> list[str]:
    last = _last(key)
    leaves = {known: _last(name) for known, name in plain.items()}
    close = _named(difflib.get_close_matches(last, leaves.values(), n=_MOST, cutoff=_CLOSE), leaves)
    section = key.rpartition(".")[0]
    beside = [known for known in close if plain[known].rpartition(".")[0] == section]
    return beside or [
        *close,
        *_named(difflib.get_close_matches(key, plain.values(), n=2, cutoff=_CLOSE), plain),
        *(known for known, leaf in leaves.items() if _contain_each_other(last, leaf)),
    ]


def _named(names: Sequence[str], name_of: dict[str, str]) -> list[str]:
    return [known for name in names for known, own in name_of.items() if own == name]


def _contain_each_other(first: str, second: str) -> bool:
    shorter, longer = sorted((first, second), key=len)
    return len(shorter) >= 4 and shorter in longer


def _plain(key: str) -> str:
    """Return `key` without differences of case, dashes and underscores."""
    return key.lower().replace("-", "").replace("_", "")


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def list_keys(config: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Yield the keys of all settings of a config, such as "optim.learning_rate"."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from list_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
