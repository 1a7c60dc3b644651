"""The one legend of the words that name axes in shape annotations; `tests/unit/test_axes.py` keeps it whole.

Subjects, with the names that TransformerLens gives to sizes, weights and hooks:

    subject      one of the subjects that are run stacked, or read in one batch
    stack        axes of a stack: subjects, or steps and subjects
    step         step of a subject's training
    layer        transformer block
    head         attention head of one block
    d_model      residual stream
    d_head       inside of a head
    d_mlp        neuron of an MLP
    d_vocab      token, as what is read or answered
    n_ctx        position that has an embedding
    unit         head of a layer, or its MLP, which comes behind the heads where both are counted

Prompts:

    batch        prompt
    pos          position of a token in a prompt
    batch_pos    position in any prompt of a batch, flattened
    sample       position in any probe prompt of an alphabet, flattened
    query        position that attends
    key          position that is attended to; key of a table of facts
    alphabet     small set of tokens from which probe prompts are drawn
    token        token of the sample that describes a vocabulary
    answer       token of that sample, as an answer; candidate answer of an edit
    answer2      second axis over such candidates
    answer3      third axis over such candidates
    substitution one token in place of another, all else equal
    cell         place in a table of answers
    symbol       token that a task uses as content
    drawn        symbol among those that a prompt draws
    value        what a bracket, a list or a table of a task holds
    context      token that chooses a table
    previous     token before, as the key of a table
    episode      story of a prompt with its own names
    role         part that a word plays in a story, or a component in a pattern
    place        bracket or value of a task's prompt
    relation     table of facts
    operator     operator of arithmetic problems
    first        number before the operator
    second       number behind it
    mode         frequency, and whether operands are added or subtracted
    hop          how often a table of facts is followed
    task         one of the families that a subject has learnt

Circuits:

    node         component of a subject
    edge         (source, destination) of a circuit
    source       component that writes to the residual stream
    destination  input that reads from it
    reader       component that reads from it
    channel      kind of relation between two nodes, or of input of a head: q, k, v
    patch        patched run of a subject
    size         circuit of the first k edges of a ranking
    ask          answer that is asked for: one a prompt, or one for each target
    active       source that an intervention changes at all
    metric       effect of a patch: margin, KL divergence
    mask         set of edges that a run keeps
    point        point of the path from a run to its patched inputs or activations
    threshold    rise of a metric at which an edge is kept
    direction    vector of a dictionary
    span         named set of positions of a prompt
    pair         (query span, key span)
    places       prompts and positions, or prompts where one answer each is asked
    set          set of items that a run ablates
    set_batch    prompt of any set, flattened
    sufficient   minimal set that suffices when kept
    necessary    minimal set that breaks a behaviour when ablated
    case         head with a pattern that it is made to attend by

What meta-models see, answer and are measured by:

    feature      number that describes a node
    neuron       neuron of an MLP, where a sample of them is a set
    encoded      number that an encoder gives a node or a pair
    algorithm    program that a subject may run, and none of these
    exemplar     labelled component of another subject
    virtual      pair of a source and a reader, with the circuit through both
    through      input of the reader of such a pair
    placed       kind of position-by-position circuit
    crossing     kind of circuit between tokens and positions
    inner        axis over which two factors of a product are summed
    told         number that describes a neuron
    lag          distance between two positions
    n_in         what a layer takes
    n_out        what a layer gives
    statistic    number that describes raw weights
    ratio        log-ratio or cosine inside of one subject
    rank         singular value of a matrix
    evidence     kind of evidence for an answer
    probe        prompt whose answer is asked for
    shown        prompt that shows what a task asks
    chosen       probe that is asked in one step of training
    label        function label
    member       reader of several that answer
    kind         kind of component
    slice        named part of a task's prompts
    width        inside of an embedding of a node
    edge_width   inside of an embedding of a relation
    out          number that a readout gives
    row          row of a matrix, a table or a list
    column       column of a matrix or a table
    tuning       row of a table that tunes and is not fitted
    lineage      unit that is resampled
    resample     bootstrap draw
    item         thing that a metric averages over, or that a set holds
    bin          interval of probabilities
    coverage     share of items that a reader answers
    measurement  one of several measurements of the same labels

Edits:

    input        input of a domain, which an edit says what is wanted of, or that a subject is asked beside it
    example      input that a specification shows
    example2     second axis over examples
    other        example of another role
    reworded     input that an editor makes of an example
    order        way of putting the tokens of an input in order
    known        pair or input to keep, of a specification
    known2       second axis over them
    edit         edit on which a forecast is fitted
    pace         number that sets how a writer steps
    summary      number that an editor knows of an edit
    rule         edit whose map of answers is inferred
    operand      number of arithmetic, as a token
    summand      one of the two tokens of an input that are added
    guess        choice of the coefficients by which they are
    equation     linear equation that a known answer makes
    system       all of them together, under one choice of coefficients
    solution     values that solve one
    free         value that equations leave open, or the last one, which is 1
    way          where the answer wanted of an input may come from
    kernel       similarity of examples
    site         component that a change is written in
    look         number that tells how well such a change went
    look2        those of them that one network looks at
    aim          one of the kinds of examples in which it is told how well what is wanted is reached
    gate         factor of what a head or a neuron of one layer says
    unit2        second axis over what a matrix reads
    entry        effect of an edge between a pair of spans; number among flattened weights
    setting      way to fine-tune, of those that are tried at once

Matching:

    node2        second axis over nodes of one circuit
    theirs       node of the circuit that a circuit is matched to
    theirs2      second axis over these
    kept         component that is a node of a circuit
    required     edge that a pattern requires
    embedding    way to give each role of a pattern a node

Any:

    one          axis of length one, kept for broadcasting
    same         second axis of a square matrix, of the word before it
    rest         leading axes that go through unchanged
    more         leading axes of a second array
    all          what `rest` and `more` broadcast to
"""
