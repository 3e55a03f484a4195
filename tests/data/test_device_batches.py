import pytest
import torch

from captioner.data.batches import CaptionBatch
from captioner.data.device_batches import on_device


def make_batches():
    return [
        CaptionBatch(*(torch.full((2, 3), number) for _ in range(5)), rows=(number, number + 1)) for number in range(4)
    ]


def test_batches_keep_their_order_on_a_processor():
    assert [batch.rows for batch in on_device(make_batches(), torch.device("cpu"))] == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_batches_arrive_whole_on_a_gpu():
    seen = list(on_device(make_batches(), torch.device("cuda")))
    assert [batch.rows for batch in seen] == [batch.rows for batch in make_batches()]
    for batch, original in zip(seen, make_batches(), strict=True):
        assert batch.images.is_cuda
        assert torch.equal(batch.to(torch.device("cpu")).targets, original.targets)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_no_batches_are_none_on_a_gpu():
    assert list(on_device([], torch.device("cuda"))) == []
