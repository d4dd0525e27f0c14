"""What a training takes of a GPU, by arithmetic, before anything is loaded: bytes of weights and activations, operations."""

from typing import NamedTuple

NF4_BYTES = 0.5 + 4 / 64 / 4 + 0.02  # a weight: 4 bits, its block's scale in 8 bits of 64, the scale's scale
WIDTHS_KEPT = 12.0  # of the hidden width, that a layer keeps of a token: norms, projections, adapters, attention
WIDTHS_KEPT_MLP = 4.0  # of the MLP's width: gate, up, and two products
WIDTHS_KEPT_EXPERT = 3.0  # of the hidden width, for each expert a token goes to: what it gets, says and adds


class Size(NamedTuple):
    """An audio LLM by its widths."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    encoder_hidden: int
    encoder_layers: int
    expert_layers: int = 0  # whose MLPs are experts, stacked in parameters
    expert_intermediate: int = 0
    experts: int = 0  # of such a layer
    experts_asked: int = 0  # by a token

    @property
    def layer_weights(self) -> int:
        """Of all layers of the language model."""
        return self.linear_weights + self.expert_layers * self.experts * self.an_expert

    @property
    def asked_weights(self) -> int:
        """Of all layers, those that one token meets."""
        return self.linear_weights + self.expert_layers * self.experts_asked * self.an_expert

    @property
    def linear_weights(self) -> int:
        """Of all layers, those that are no expert's."""
        dense = self.layers - self.expert_layers
        return self.attention_weights + dense * 3 * self.hidden * self.intermediate

    @property
    def attention_weights(self) -> int:
        """Of all layers, as where queries, keys and values are as wide as the model: near enough where keys and values are
        narrower and queries wider, as Qwen3's are."""
        return self.layers * 4 * self.hidden**2

    @property
    def an_expert(self) -> int:
        """Weights of one expert."""
        return 3 * self.hidden * self.expert_intermediate

    @property
    def encoder_weights(self) -> int:
        """Of encoder and projector, whose MLP is four times as wide as they are."""
        return self.encoder_layers * 12 * self.encoder_hidden**2 + self.encoder_hidden * self.hidden


QWEN2_AUDIO_7B = Size(4096, 32, 11_008, 156_032, 1280, 32)
QWEN2_5_OMNI_7B = Size(3584, 28, 18_944, 152_064, 1280, 32)
QWEN3_OMNI_30B = Size(2048, 48, 768, 152_064, 1280, 32, 48, 768, experts=128, experts_asked=8)


class Asked(NamedTuple):
    """What decides how much a training takes."""

    bits: int  # of a layer's weight: 4, 8 or 16; 32 where every parameter is trained
    with_encoder: bool  # on the card in every step
    checkpointing: bool
    full: bool = False  # every parameter is trained


def layer_bytes(size: Size, asked: Asked) -> float:
    """Bytes of the layers' weights. Experts, which are stacked, are quantised by nobody."""
    each = NF4_BYTES if asked.bits == 4 else asked.bits / 8
    return size.linear_weights * each + (size.layer_weights - size.linear_weights) * max(2.0, asked.bits / 8)


def weight_bytes(size: Size, asked: Asked) -> float:
    """Bytes of the weights on the card while training, with gradients and Adam's moments where all are trained."""
    dense = 4 if asked.full else 2
    words = size.vocabulary * size.hidden * (2 if asked.full else 1)  # the head; the embedding leaves a frozen card
    rest = words + (size.encoder_weights if asked.with_encoder else 0)
    return (layer_bytes(size, asked) + rest * dense) * (4 if asked.full else 1)


def loading_bytes(size: Size, asked: Asked) -> float:
    """Bytes of the weights when the base has just been loaded, encoder and embedding included."""
    dense = 4 if asked.full else 2
    return layer_bytes(size, asked) + dense * (2 * size.vocabulary * size.hidden + size.encoder_weights)


def clip_bytes(size: Size, asked: Asked, tokens: int) -> float:
    """Bytes that one clip of so many tokens, question and answer included, adds to a step."""
    dense = WIDTHS_KEPT * size.hidden + WIDTHS_KEPT_MLP * size.intermediate
    routed = (WIDTHS_KEPT + WIDTHS_KEPT_EXPERT * size.experts_asked) * size.hidden
    routed += WIDTHS_KEPT_MLP * size.expert_intermediate * size.experts_asked
    kept = [dense] * (size.layers - size.expert_layers) + [routed] * size.expert_layers
    widths = max(kept) + size.layers * size.hidden if asked.checkpointing else sum(kept)
    text = 2 * tokens * widths
    logits = 3 * 4 * size.vocabulary
    heard = 2 * size.encoder_layers * 2 * tokens * (WIDTHS_KEPT + 4 * WIDTHS_KEPT_MLP) * size.encoder_hidden
    return text + logits + (heard if asked.with_encoder else 0)


def largest_batch(size: Size, asked: Asked, tokens: int, limit_bytes: float) -> int:
    """Clips of so many tokens that fit at once; 0 where not even the base and one of them do."""
    if loading_bytes(size, asked) > limit_bytes:
        return 0
    return max(0, int((limit_bytes - weight_bytes(size, asked)) / clip_bytes(size, asked, tokens)))


def operations(size: Size, asked: Asked, tokens: int) -> float:
    """Floating-point operations of one clip there and back: 2 a weight and token there, 2 back, 2 more where weights are
    trained, and 2 more where activations are computed twice."""
    a_weight = 4 + (2 if asked.full else 0) + (2 if asked.checkpointing else 0)
    head = 4 * size.vocabulary * size.hidden
    heard = (4 * size.encoder_weights * 2 * tokens) if asked.with_encoder else 0
    return float(a_weight * size.asked_weights * tokens + head + heard)
