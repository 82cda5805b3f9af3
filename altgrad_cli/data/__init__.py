"""From a corpus to seeded batches, one file per stage.

    config        what the user may say about data
    legal_english the embedded corpus: grammar and vocabulary of an imaginary Union's law
    legislator    draws acts from them, seeded
    hub           a data set on the Hugging Face Hub -> a local folder
    documents     a path -> documents, training and validation apart
    readers       one file -> its documents: .txt, .jsonl, .json, .parquet
    records       one record -> its text, by the fields it has
    tokenizers    text -> token ids: bytes, bpe:N, gpt2
    gpt2_encoding tiktoken's gpt2 without its endless wait for a network
    token_cache   token ids on disk: checksummed, memory-mapped, replaced atomically
    corpus        all of the above behind ``load_corpus``
    batches       tokens -> (x, y), drawn by a private generator

Nothing is imported here, so that reading a configuration does not load torch.
"""
