"""Packed = separate: with the document mask a document in a full window is computed as if it stood alone."""

import pytest
import torch

from foretell.data.batches import documents_of
from foretell.models.build import build, initialise
from foretell.models.gpt import GPT, positions_within
from foretell.models.settings import ModelSettings, resolve

END = 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", ["gpt1", "gpt2", "gpt3", "modern"])
def test_packed_equals_separate(preset: str, dtype: torch.dtype) -> None:
    settings = ModelSettings(
        preset=preset, n_layer=2, d_model=32, n_head=2, context_length=32, **({"window": 5} if preset == "gpt3" else {})
    )
    model = build(resolve(settings, 40)[0])
    assert isinstance(model, GPT)
    initialise(model, 1)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # projections that begin at zero would hide what attention does
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    generator, lengths = torch.Generator().manual_seed(3), (5, 1, 13, 8, 5)
    documents = [torch.cat((torch.tensor([END]), torch.randint(8, 40, (length - 1,), generator=generator))) for length in lengths]
    packed = torch.cat(documents)[None]
    number = documents_of(packed, END)
    assert number[0].tolist() == [i + 1 for i, length in enumerate(lengths) for _ in range(length)]
    assert positions_within(number)[0].tolist() == [place for length in lengths for place in range(length)]
    with torch.no_grad():
        together = model(packed, None, None, number)[0]
        apart = torch.cat([model(document[None])[0] for document in documents])
        crossing = model(packed)[0]
    tolerance = 1e-5 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(together, apart, rtol=0, atol=tolerance)
    assert (crossing - apart).abs().max() > 2 * tolerance


def test_a_window_that_begins_amid_a_document() -> None:
    tokens = torch.tensor([[9, 9, END, 9, END, END, 9]])
    assert documents_of(tokens, END).tolist() == [[0, 0, 1, 1, 2, 3, 3]]
    assert positions_within(documents_of(tokens, END)).tolist() == [[0, 1, 0, 1, 0, 0, 1]]
