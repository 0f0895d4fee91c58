"""Moving files over one connected stream: messages, rules, and the two machines (docs/spec/transfer.md).

messages    what is said, its limits, its bytes
names       which file names from a peer are acceptable
manifest    the list of what is offered, checked as it grows
lifecycle   who may say what, when: one table that both sides run
link        bytes to messages and back, liveness
sender      the side that has the files
receiver    the side that wants them
report      progress and outcome, for the caller
"""
