"""Replay: assembling n-step transitions, and storing them for uniform sampling."""

from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.buffers.uniform import UniformBuffer, UniformSpec

__all__ = ["NStepAssembler", "UniformBuffer", "UniformSpec"]
