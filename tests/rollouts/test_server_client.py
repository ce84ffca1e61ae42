"""What the requests of a client have in common; `test_server_sampler` has its failures."""

from implicit_prm.rollouts.server_client import request_seed


def test_seeds_have_31_bits_and_depend_on_all_parts():
    seeds = {request_seed(*parts) for parts in ((0, "p", 0), (0, "p", 1), (1, "p", 0), (0, "q", 0))}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert request_seed(0, "p", 1) == request_seed(0, "p", 1)
    assert request_seed(None, "p", 1) is None
