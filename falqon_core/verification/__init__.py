"""The certificate: a process of its own reloads an exported model and compares it with the trained.

`capture` records outputs of the trained model, `client` starts the process and sends them to it,
`process` runs there, `compare` compares. The certificate itself is in `contract.certificate`.
"""
