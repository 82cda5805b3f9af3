"""Checkpoints as files: sealed when written, opened without trust, kept as long as they are needed.

file               Checkpoints on disk
foreign            Opens any file of tensors: altgrad's own by its seal, everything else for its values alone
legacy_torch_file  Reads what ``torch.save`` wrote before version 1.6
named_tensors      Tensors by name, and what their values are
opening            The one place where a file of tensors is opened
payload            What a checkpoint holds, part by part; and its plain form, in which it lies in the file
plain_pickle       Walks the pickle of a torch file without ever running what it names
retention          Which checkpoints of a run stay: the best by validation, the last two, and every anomaly
safetensors_file   Reads a .safetensors file
torch_archive      Opens torch's file format without trusting a byte of it
"""
