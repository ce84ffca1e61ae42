"""The chunked log-probabilities against their definition: values, and both gradients."""

from unittest import mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from implicit_prm.rewards.chunked_logprobs import LogitTransform, naive_token_logprobs, token_logprobs

TRANSFORMS = {
    "plain": LogitTransform(),
    "scaled": LogitTransform(scale=0.25),
    "capped": LogitTransform(softcap=5.0),
    "scaled and capped": LogitTransform(scale=3.0, softcap=5.0),
}


def _inputs(tokens=37, width=16, vocabulary=101, bias=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return draw(tokens, width), draw(vocabulary, width), targets, draw(vocabulary) if bias else None


def _run(function, hidden, weight, targets, bias, transform, **options):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    values = function(leaves[0], leaves[1], targets, leaves[2] if bias is not None else None, transform, **options)
    values.backward(torch.linspace(-1, 1, len(values)))
    return values.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("chunk", [1, 5, 37, 1000])
def test_equals_the_naive_twin_with_all_gradients(transform, bias, chunk):
    inputs = _inputs(bias=bias, dtype=torch.float32)
    naive, naive_grads = _run(naive_token_logprobs, *inputs, transform)
    ours, grads = _run(token_logprobs, *inputs, transform, chunk_tokens=chunk)
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)
    for grad, naive_grad in zip(grads, naive_grads, strict=True):
        torch.testing.assert_close(grad, naive_grad, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_still_do():
    hidden, weight, targets, _ = _inputs(dtype=torch.float32)
    weight = weight.detach()
    token_logprobs(hidden, weight, targets, chunk_tokens=8).sum().backward()
    expected = torch.autograd.grad(naive_token_logprobs(hidden, weight, targets).sum(), hidden)[0]
    torch.testing.assert_close(hidden.grad, expected, atol=1e-5, rtol=1e-5)


def _head_products(tokens, chunk, frozen=False):
    """How often all tokens went through the head, or back, for values and gradients."""
    hidden, weight, targets, _ = _inputs(tokens=tokens, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        token_logprobs(hidden, weight.requires_grad_(not frozen), targets, chunk_tokens=chunk).sum().backward()
    return counter.get_total_flops() / (2 * tokens * weight.numel())


def test_only_what_is_behind_the_first_chunk_is_computed_twice():
    assert _head_products(40, chunk=40) == 3  # forward, and a gradient for each of the two factors
    assert _head_products(40, chunk=10) == 3 + 30 / 40


def test_a_frozen_head_computes_nothing_twice():
    assert _head_products(40, chunk=10, frozen=True) == 2


def test_without_gradients_nothing_is_kept_for_them():
    hidden, weight, targets, _ = _inputs(dtype=torch.float32)
    with torch.no_grad(), mock.patch.object(LogitTransform, "slope", side_effect=AssertionError):
        assert token_logprobs(hidden, weight, targets).grad_fn is None


def test_the_whole_vocabulary_is_never_there_at_once():
    """The largest tensor saved or made is a chunk's: with 512 tokens of 40,000 words, 80 MB would be needed."""
    hidden, weight, targets, _ = _inputs(tokens=512, width=8, vocabulary=40_000, dtype=torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
            nonlocal largest
            result = function(*arguments, **(options or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        token_logprobs(hidden, weight, targets, chunk_tokens=16).sum().backward()
    assert largest == max(16 * 40_000, 40_000 * 8)


def test_bfloat16_inputs_are_reduced_in_float32():
    hidden, weight, targets, _ = _inputs(dtype=torch.float32)
    half = token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, naive_token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets))


def test_wrong_shapes_are_named():
    hidden, weight, targets, _ = _inputs()
    with pytest.raises(ValueError, match=r"targets \[tokens\]"):
        token_logprobs(hidden[None], weight, targets)


def test_no_tokens_give_no_logprobs():
    hidden, weight, targets, _ = _inputs(dtype=torch.float32)
    assert token_logprobs(hidden[:0], weight, targets[:0]).shape == (0,)


@pytest.mark.parametrize("with_bias", [False, True])
def test_autocast_decides_the_dtype_of_every_chunk(with_bias):
    hidden, weight, bias = (torch.randn(size, requires_grad=True) for size in ((7, 8), (11, 8), (11,)))
    targets, given = torch.randint(11, (7,)), bias if with_bias else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logprobs(hidden, weight, targets, given, chunk_tokens=2)
    found.sum().backward()
    assert all(one.grad.dtype == torch.float32 for one in (hidden, weight))
    torch.testing.assert_close(found, naive_token_logprobs(hidden, weight, targets, given), atol=0.1, rtol=0.02)
