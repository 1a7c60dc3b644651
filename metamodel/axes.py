"""The one legend of axis words, used by annotations and einsum alike.

    subject   one of the subjects that are run stacked     layer     transformer block
    batch     prompt                                       head      attention head of one block
    pos       position of a token in a prompt              d_model   residual stream
    query     position that attends                        d_head    inside of a head
    key       position that is attended to                 d_mlp     neuron of an MLP
    d_vocab   token                                        node      component of a subject
    n_ctx     position that has an embedding               edge      (source, destination) of a circuit
    channel   kind of relation between two nodes           feature   number that describes a node
    source    component that writes to the residual stream destination  input that reads from it
    evidence  kind of evidence for an answer
    label     function label                               slice     named part of a task's prompts
    statistic number that describes raw weights            probe     prompt whose answer is asked for
    method    meta-model or baseline                       lineage   unit that is resampled
    resample  bootstrap draw                               item      thing that a metric averages over
    place     bracket or value of a task's prompt          relation  table of facts
    hop       how often a table of facts is followed

Sizes, weights and hooks carry TransformerLens's names.
"""
