"""Opponents that learn from raw weights or run the subject, and examples with another subject."""

from dataclasses import replace

from metamodel.baselines.neuron_graph import NeuronGraph
from metamodel.baselines.neurons import neuron_inputs
from metamodel.baselines.probegen import ProbeGen, canonical_weights
from metamodel.baselines.raw_weights import raw_weights
from metamodel.baselines.transformer_nfn import TransformerNfn

METHODS = {
    "transformer_nfn": (raw_weights, TransformerNfn),
    "neuron_graph": (neuron_inputs, NeuronGraph),
    "probegen": (canonical_weights, ProbeGen),
}


def with_subject(example, subject):
    seen, truth = example
    return replace(seen, baseline_inputs=replace(seen.baseline_inputs, subject=subject)), truth
