"""Weighted sums of table rows: PyTorch's embedding_bag, its gradients, and several tables at once."""

import torch
import torch.nn.functional as F

from d2st.adapter.nets.bags import bag_sums


def arguments(count=3):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(count, 7, 2, dtype=torch.float64, generator=generator)
    rows = torch.randint(0, 7, (count, 5, 4), generator=generator)
    return table, rows, torch.randn(count, 5, 4, dtype=torch.float64, generator=generator)


def test_they_are_embedding_bag_and_its_gradients():
    table, rows, weight = (each[0] for each in arguments())
    torch.testing.assert_close(
        bag_sums(table, rows, weight), F.embedding_bag(rows, table, mode="sum", per_sample_weights=weight)
    )
    assert torch.autograd.gradcheck(lambda t, w: bag_sums(t, rows, w), (table.requires_grad_(), weight.requires_grad_()))


def test_several_tables_at_once_wherever_their_axis_is():
    table, rows, weight = arguments()
    expected = torch.stack([bag_sums(*own) for own in zip(table, rows, weight, strict=True)])
    torch.testing.assert_close(torch.vmap(bag_sums)(table, rows, weight), expected)
    moved = torch.vmap(bag_sums, in_dims=(2, 0, 1))(table.movedim(0, 2), rows, weight.movedim(0, 1))
    torch.testing.assert_close(moved, expected)
    shared = torch.vmap(bag_sums, in_dims=(None, 0, 0))(table[0], rows, weight)
    torch.testing.assert_close(shared[1], bag_sums(table[0], rows[1], weight[1]))
