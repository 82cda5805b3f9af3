"""From a corpus to seeded batches, one file per stage.

batches        Batches of next-token pairs, drawn by a private generator and by nothing else
compression    Compressed files, by the suffix that is added to a file's name
content        What a file's bytes are, whatever its name says: disguises recognised, UTF-8 demanded
corpus_files   A path -> the files that make up the corpus there, each with its split
documents      The files of a corpus -> documents, training and validation apart
gpt2_encoding  GPT-2's encoding through tiktoken, with the patience that tiktoken's download lacks
hub            A data set on the Hugging Face Hub -> a local folder
readers        A file -> its documents, one function per kind of file
records        A record of a published legal corpus -> its running text, whatever the layout
token_cache    Prepared tokens on disk
tokenizers     Text -> token ids
tokens         ``load_corpus``: from a configuration to two splits of tokens, through the cache
"""
