"""An epoch's order is TRL's for the first one, and does not depend on the epochs before."""

from trl.trainer.utils import RepeatSampler

from implicit_prm.rl.epoch_order import EpochOrder


def sampler(shuffle=True):
    return RepeatSampler(range(10), mini_repeat_count=2, batch_size=2, shuffle=shuffle, seed=5)


def test_the_order_depends_on_the_epoch_alone():
    ours = EpochOrder(sampler(), 5)
    orders = []
    for epoch in (0, 1, 2, 1):
        ours.set_epoch(epoch)
        orders.append(list(ours))
    assert orders[0] == list(sampler())
    assert orders[1] == orders[3] != orders[2]
    assert len(ours) == len(orders[0]) == 20


def test_without_shuffling_nothing_changes():
    ours = EpochOrder(sampler(shuffle=False), 5)
    ours.set_epoch(3)
    assert list(ours) == list(sampler(shuffle=False))
