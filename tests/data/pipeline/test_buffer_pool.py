import gc
import threading

import jax
import numpy as np

from vswin_jax.data.pipeline.buffer_pool import RecycledMemory


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_array_is_gone() -> None:
    memory = RecycledMemory((4, 1000), np.float32)
    array = memory.empty()
    assert (array.shape, array.dtype) == ((4, 1000), np.float32)
    where = _address(array)
    other = memory.empty()
    assert _address(other) != where
    del array
    assert _address(memory.empty()) == where


def test_a_view_keeps_the_memory() -> None:
    memory = RecycledMemory((4, 1000), np.float32)
    array = memory.empty()
    array[:] = 7
    part = array[1:3].reshape(-1)[::5]
    del array
    gc.collect()
    memory.empty()[:] = 0
    np.testing.assert_array_equal(part, 7)


def test_what_jax_made_of_it_keeps_its_values() -> None:
    memory = RecycledMemory((64, 1000), np.float32)
    made = []
    for value in range(8):
        array = memory.empty()
        array[:] = value
        made.append(jax.device_put(array))
        del array
    for value, array in enumerate(made):
        np.testing.assert_array_equal(array, value)


def test_threads_never_share_an_array() -> None:
    memory = RecycledMemory((1000,), np.int64)
    wrong = []

    def work(number: int) -> None:
        for _ in range(300):
            array = memory.empty()
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
