"""``observe`` for the Trainer of Transformers: ``Trainer(..., callbacks=[TransformersObserver(...)])``."""

from __future__ import annotations

from inspect import signature
from typing import Any

from transformers import TrainerCallback

from altgrad_cli.errors import UsageError
from altgrad_cli.observing.lab import Lab
from altgrad_cli.observing.start import observe


class TransformersObserver(TrainerCallback):
    """Observes the Trainer's model from the beginning of its training to the end.

    Args:
        options: what ``observe`` takes beside model and optimizer.

    Raises:
        TypeError: ``observe`` does not know one of them.
        UsageError: when training begins: the Trainer compiles its model or has several processes, or what
            ``observe`` refuses.
    """

    def __init__(self, **options: Any) -> None:
        signature(observe).bind(None, None, **options)
        self._options = options
        self.lab: Lab | None = None
        """What observes; None before training begins."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Round, measure and capture from now on."""
        if args.torch_compile:
            raise UsageError(
                "the Trainer compiles its model, and a compiled model is not observed",
                where="torch_compile",
                allowed="false",
            )
        if args.world_size > 1:
            raise UsageError(
                f"the Trainer has {args.world_size} processes",
                where="world_size",
                allowed="1",
                hint="in a loop of one's own observe takes a model wrapped by DistributedDataParallel",
            )
        self.close()
        self.lab = observe(given["model"], given["optimizer"], **self._options)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Give the model back."""
        self.close()

    def close(self) -> None:
        """As ``Lab.close``; after an exception the Trainer does not do it."""
        if self.lab is not None:
            self.lab.close()
