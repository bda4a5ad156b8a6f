"""Healthy runs of the real part of the zoo beside images and tokens."""

from __future__ import annotations

from zoo.base import Case
from zoo.real_base import healthy
from zoo.real_other_own import actor_critic, adversaries, autoencoder, critic, denoiser, densities, flow, physics
from zoo.real_other_runs import (
    churn,
    deep_sets,
    graph_nodes,
    graph_values,
    point_clouds,
    prices,
    product,
    recommender,
    recommender_ranks,
    specialists,
)

CASES: tuple[Case, ...] = (
    healthy("other_autoencoder", autoencoder, epochs=8),
    healthy("other_denoiser", denoiser, epochs=8),
    healthy("other_adversaries", adversaries, epochs=8),
    healthy("other_critic", critic, epochs=8),
    healthy("other_densities", densities, epochs=8),
    healthy("other_flow", flow, epochs=8),
    healthy("other_physics", physics, epochs=8),
    healthy("other_actor_critic", actor_critic),
    healthy("other_graph_nodes", graph_nodes),
    healthy("other_graph_values", graph_values, epochs=6),
    healthy("other_recommender", recommender, epochs=8),
    healthy("other_recommender_ranks", recommender_ranks, epochs=1),
    healthy("other_point_clouds", point_clouds, epochs=6),
    healthy("other_deep_sets", deep_sets, epochs=8),
    healthy("other_churn", churn, epochs=6),
    healthy("other_prices", prices, epochs=8),
    healthy("other_specialists", specialists, epochs=6),
    healthy("other_product", product, epochs=6),
)
