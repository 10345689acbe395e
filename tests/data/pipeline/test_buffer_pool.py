import gc
import threading

import jax
import numpy as np

from vswin_jax.data.pipeline.buffer_pool import BufferPool


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_reused_after_the_array_is_freed() -> None:
    pool = BufferPool((4, 1000), np.float32)
    array = pool.empty()
    assert (array.shape, array.dtype) == ((4, 1000), np.float32)
    address = _address(array)
    other = pool.empty()
    assert _address(other) != address
    del array
    assert _address(pool.empty()) == address


def test_a_view_keeps_the_memory() -> None:
    pool = BufferPool((4, 1000), np.float32)
    array = pool.empty()
    array[:] = 7
    part = array[1:3].reshape(-1)[::5]
    del array
    gc.collect()
    pool.empty()[:] = 0
    np.testing.assert_array_equal(part, 7)


def test_jax_arrays_keep_their_values() -> None:
    pool = BufferPool((64, 1000), np.float32)
    arrays = []
    for value in range(8):
        array = pool.empty()
        array[:] = value
        arrays.append(jax.device_put(array))
        del array
    for value, array in enumerate(arrays):
        np.testing.assert_array_equal(array, value)


def test_threads_never_share_an_array() -> None:
    pool = BufferPool((1000,), np.int64)
    wrong = []

    def work(number: int) -> None:
        for _ in range(300):
            array = pool.empty()
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
