"""From a corpus to seeded batches, one file per stage.

    config        what the user may say about data
    legal_english the embedded corpus: grammar and vocabulary of an imaginary legislator
    documents     a path -> documents, training and validation apart
    hub           a data set on the Hugging Face Hub -> a local folder
    tokenizers    text -> token ids: bytes, bpe:N, gpt2
    token_cache   token ids on disk: checksummed, memory-mapped, replaced atomically
    corpus        all of the above behind ``load_corpus``
    batches       tokens -> (x, y), drawn by a private generator

Nothing is imported here, so that reading a configuration does not load torch.
"""
