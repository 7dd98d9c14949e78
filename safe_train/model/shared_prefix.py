"""Shares the forward pass up to the first fused decoder layer between the bypass and a pass with audio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class SharedPrefix:
    """A forward pass up to the output of one decoder layer.

    Attributes:
        layer: index of that layer.
        arguments: positional arguments of the decoder's call.
        keywords: its keyword arguments: embeddings with the image in place, positions, masks.
        output: the layer's output, before any fusion.
    """

    layer: int
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    output: Any

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> SharedPrefix:
        """The same with another tensor for each."""
        parts = (self.arguments, dict(self.keywords), self.output)
        return SharedPrefix(self.layer, *pytree.tree_map_only(Tensor, function, parts))

    def leaves(self) -> list[Any]:
        """What tuples, lists and dictionaries of the recorded call hold."""
        return pytree.tree_leaves((self.arguments, dict(self.keywords), self.output))


class PrefixRecorder:
    """Records, inside a ``with`` block, the prefix of the one forward pass that runs there without audio."""

    def __init__(self, decoder: nn.Module, layers: nn.ModuleList, layer: int) -> None:
        """Takes the decoder, its layers and the index of the last one that is shared."""
        self._decoder, self._layers, self._layer = decoder, layers, layer
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._results: list[Any] = []
        self._outputs: list[Any] = []
        self._handles: list[Any] = []

    def __enter__(self) -> PrefixRecorder:
        self._handles = [
            self._decoder.register_forward_pre_hook(
                lambda _module, arguments, keywords: self._calls.append((arguments, dict(keywords))), with_kwargs=True
            ),
            self._decoder.register_forward_hook(lambda _module, _arguments, output: self._results.append(output)),
            self._layers[self._layer].register_forward_hook(
                lambda _module, _arguments, output: self._outputs.append(output)
            ),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def prefix(self, last_hidden_state: Tensor) -> SharedPrefix | None:
        """The recorded prefix; None if what the pass gave is not what one call of the decoder gave, or a layer's twice.

        Args:
            last_hidden_state: what the pass gave.
        """
        if len(self._calls) != 1 or len(self._outputs) != 1 or self._results[0][0] is not last_hidden_state:
            return None
        arguments, keywords = self._calls[0]
        return SharedPrefix(self._layer, arguments, keywords, self._outputs[0])


def continue_from(prefix: SharedPrefix, decoder: nn.Module, layers: nn.ModuleList) -> Tensor:
    """Hidden states [B, T, H] of the decoder, its layers up to the prefix's not run again.

    The layers below hand their input through and the prefix's layer gives its recorded output, so that the decoder's
    own code runs on, and hooks on that layer (a fusion) see what they would have seen.
    """
    with ExitStack() as replaced:
        for layer in list(layers)[: prefix.layer]:
            replaced.enter_context(_forward_of(layer, prefix.output, through=True))
        replaced.enter_context(_forward_of(layers[prefix.layer], prefix.output, through=False))
        return decoder(*prefix.arguments, **prefix.keywords)[0]


@contextmanager
def _forward_of(layer: nn.Module, like: Any, *, through: bool) -> Iterator[None]:
    """Replaces a layer's forward pass inside the block by its input (``through``), or by the output ``like``."""

    def hand_through(*arguments: Any, **keywords: Any) -> Any:
        hidden = arguments[0] if arguments else keywords["hidden_states"]
        return (hidden, *like[1:]) if isinstance(like, tuple) else hidden

    own = layer.__dict__.get("forward")  # accelerate and others set one on the instance
    layer.forward = hand_through if through else lambda *_arguments, **_keywords: like
    try:
        yield
    finally:
        if own is None:
            del layer.forward
        else:
            layer.forward = own
