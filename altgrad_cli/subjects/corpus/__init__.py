"""From a corpus to seeded batches, one file per stage.

batches        Batches of next-token pairs, drawn by a private generator and by nothing else
corpus         ``load_corpus``: from a configuration to two splits of tokens, through the cache
documents      A path -> documents, training and validation apart
gpt2_encoding  GPT-2's encoding through tiktoken, with the patience that tiktoken's download lacks
hub            A data set on the Hugging Face Hub -> a local folder
readers        A file -> its documents, one function per kind of file
records        A record of a published legal corpus -> its running text, whatever the layout
token_cache    Prepared tokens on disk
tokenizers     Text -> token ids
"""
