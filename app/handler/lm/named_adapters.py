"""The adapters of a language model that requests name."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_unflatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear

from app.errors import ModelLoadError
from app.handler.lm.adapters import FAULTS, adapter_fingerprint, put_on, style_of
from app.handler.lm.expert_adapters import EXPERTS, AdaptedExperts, AdaptedSwitchLinear, ExpertTokens
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.row_adapters import AdaptedLinear, LoRALayer, RowAdapters

# Of what the layers are tried out on.
_TRIAL_TOKENS = 5


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """`number` is what `RowAdapters` knows it by; prefixes of one `fingerprint` were computed with the same weights."""

    number: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class NamedAdapters:
    """The adapters by name, and what runs rows with them; none for a model that has none."""

    by_name: Mapping[str, NamedAdapter] = field(default_factory=dict[str, NamedAdapter])
    rows: RowAdapters = field(default_factory=RowAdapters)

    def chosen(self, prepared: PreparedGeneration, name: str | None) -> PreparedGeneration:
        """The generation with the adapter of that name, none for None, and with the prefixes that it may begin with."""
        adapter = self.by_name[name] if name is not None else NamedAdapter(0, "")
        # What comes before the colon is never the client's, so that none can name another's prefixes.
        namespace = f"{adapter.fingerprint}:{prepared.cache_namespace}"
        return replace(prepared, adapter=adapter.number, cache_namespace=namespace)


def open_named_adapters(model: nn.Module, folders: Mapping[str, Path]) -> NamedAdapters:
    """Put several adapters beside each other on a model with its weights loaded. Errors: ModelLoadError."""
    if not folders:
        return NamedAdapters()
    layers: dict[str, list[LoRALayer | None]] = {}
    scales: list[float] = []
    for index, (name, folder) in enumerate(folders.items()):
        found = _layers_of(model, name, folder)
        scales.append(next((layer.scale for layer in found.values()), 0.0))
        for path, layer in found.items():
            layers.setdefault(path, [None] * len(folders))[index] = layer
    rows = RowAdapters(scales)
    _put_side_by_side(model, layers, rows)
    _try_out(model, rows, len(folders))
    prints = [_fingerprint(folder) for folder in folders.values()]
    by_name = {name: NamedAdapter(index + 1, prints[index]) for index, name in enumerate(folders)}
    return NamedAdapters(by_name, rows)


def _fingerprint(folder: Path) -> str:
    """Two adapters of one size may have been written at one time: an archive may say so of all its files."""
    return hashlib.sha256(f"{folder.resolve()} {adapter_fingerprint(folder)}".encode()).hexdigest()


def _put_side_by_side(model: nn.Module, layers: Mapping[str, list[LoRALayer | None]], rows: RowAdapters) -> None:
    parts = dict(model.named_modules())
    tokens: dict[str, ExpertTokens] = {}
    new: dict[str, nn.Module] = {}
    for path, adapters in layers.items():
        if isinstance(next(filter(None, adapters)), LoRALinear):
            new[path] = AdaptedLinear(adapters, rows)
        else:
            of_layer = tokens.setdefault(_around(path), ExpertTokens())
            new[path] = AdaptedSwitchLinear(adapters, rows, of_layer)
    model.update_modules(tree_unflatten(list(new.items())))
    around = [(path, AdaptedExperts(parts[path], rows, of_layer)) for path, of_layer in tokens.items()]
    model.update_modules(tree_unflatten(around))


def _layers_of(model: nn.Module, name: str, folder: Path) -> dict[str, LoRALayer]:
    """An adapter's layers by their place in the model, which is left as it was. Errors: ModelLoadError."""
    called = f"The adapter '{name}' ('{folder}')"
    if (style := style_of(folder, called)) != "lora":
        raise _alone(called, f"is of type '{style}'")
    put_on(model, folder, called)
    parts = dict(model.named_modules())
    found: dict[str, LoRALayer] = {}
    for path, part in parts.items():
        if type(part) is LoRALinear or (type(part) is LoRASwitchLinear and type(parts[_around(path)]) in EXPERTS):
            found[path] = part
        elif isinstance(part.get("lora_a"), mx.array):
            raise _alone(called, f"changes '{path}', which is neither a linear layer nor one of experts")
    model.update_modules(tree_unflatten([(path, layer.linear) for path, layer in found.items()]))
    return found


def _around(path: str) -> str:
    return path.rpartition(".")[0]


def _alone(called: str, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"{called} {why}, and cannot share its base with others: serve it as a model of its own, with --adapter-path."
    )


def _try_out(model: nn.Module, rows: RowAdapters, num_adapters: int) -> None:
    """See whether every layer is met in every pass, with the rows in their order; only shapes are asked for.

    Errors: ModelLoadError.
    """
    tried = tuple(range(num_adapters + 1))
    try:
        cache = make_prompt_cache(model)
        num_layers: set[int] = set()
        # A part of a model that is compiled is not met again, and would keep the adapters of the first rows.
        for num_tokens in (_TRIAL_TOKENS, 1, 1):
            rows.run(model, tried, mx.zeros((len(tried), num_tokens), mx.int32), cache=cache)
            num_layers.add(rows.num_layers)
        if len(num_layers) > 1:
            raise ValueError("parts of it are compiled")
    except FAULTS as error:
        raise ModelLoadError(
            f"This model cannot run with several adapters ({error}): serve each as a model of its own, with"
            " --adapter-path."
        ) from error
