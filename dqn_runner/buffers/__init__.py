"""Replay: assembling transitions from steps, and storing them for uniform sampling."""

from dqn_runner.buffers.n_step import NStepAssembler
from dqn_runner.buffers.sarsa import SarsaAssembler
from dqn_runner.buffers.uniform import PhaseBuffer, UniformBuffer, UniformSpec

__all__ = ["NStepAssembler", "PhaseBuffer", "SarsaAssembler", "UniformBuffer", "UniformSpec"]
