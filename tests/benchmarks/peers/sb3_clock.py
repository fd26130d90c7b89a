"""When the warm-up of Stable-Baselines3's training is over."""

from __future__ import annotations

import time

from stable_baselines3.common.callbacks import BaseCallback


class Clock(BaseCallback):  # type: ignore[misc]
    """Notes when `warmup` env steps are done."""

    started = 0.0

    def __init__(self, warmup: int) -> None:
        super().__init__()
        self._warmup = warmup

    def _on_step(self) -> bool:
        if self.num_timesteps == self._warmup:
            self.started = time.perf_counter()
        return True
