"""Real runs on images: healthy ones, and copies of them with one mistake."""

from __future__ import annotations

from zoo import real_vision_others as others
from zoo import real_vision_runs as runs
from zoo.base import Case
from zoo.real_base import healthy
from zoo.real_vision_faults import CASES as FAULTS
from zoo.real_vision_other_faults import CASES as OTHER_FAULTS

HEALTHY_CASES: tuple[Case, ...] = (
    healthy("resnet_warm_cosine", runs.resnet, epochs=6),
    healthy("resnet_tuned", runs.resnet_tuned),
    healthy("resnet_probe", runs.resnet_probe, epochs=4),
    healthy("mobilenet_rmsprop", runs.mobilenet, epochs=5),
    healthy("efficientnet_clipped", runs.efficientnet, epochs=4),
    healthy("convnext_warm", runs.convnext, epochs=6),
    healthy("vit_warm", runs.vit, epochs=5),
    healthy("patches_adam", runs.patches, epochs=4),
    healthy("swin_restarts", runs.swin, epochs=6),
    healthy("shufflenet_accumulated", runs.shufflenet, epochs=4),
    healthy("regnet_mixed", runs.regnet, epochs=6),
    healthy("densenet_rare", runs.densenet, epochs=3),
    healthy("excited_one_cycle", runs.excited, epochs=6),
    healthy("plain_dropout", runs.plain, epochs=5),
    healthy("plain_mislabelled", runs.few, epochs=6),
    healthy("lenet_full_batch", runs.lenet, epochs=5),
    healthy("excited_one_epoch", runs.one_epoch, epochs=1),
    healthy("mixer_adamw", runs.mixer, epochs=5),
    healthy("tagger_weighted", runs.tagger, epochs=5),
    healthy("unet_dice", others.unet, epochs=4),
    healthy("lraspp_pixels", others.lraspp, epochs=5),
    healthy("siamese_pairs", others.siamese, epochs=4),
    healthy("triplet_hardest", others.triplet, epochs=5),
    healthy("contrastive_views", others.contrastive, epochs=5),
    healthy("heads_bf16", others.heads, epochs=5),
    healthy("autoencoder_noise", others.autoencoder, epochs=6),
    healthy("centre_turned", others.centre, epochs=6),
    healthy("height_sgd", others.height, epochs=6),
    healthy("density_negative", others.density, epochs=6),
)
CASES: tuple[Case, ...] = (*HEALTHY_CASES, *FAULTS, *OTHER_FAULTS)
