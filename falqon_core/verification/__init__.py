"""The certificate: a process of its own reloads an exported model and compares it with the trained.

`capture` asks the trained model, `client` starts the process and hands it what was captured,
`process` runs there, `compare` compares. What a certificate says is in `contract.certificate`.
"""
