"""The pocket base's tokenizer: a byte-level BPE of 4,096 tokens, trained on the base's own corpus.

    python -m zerogate.bases.pocket.tokenizer --data ../shared/data --out runs/pocket/tokenizer

Digits are always tokens of their own, so that `17` and `7` share what they have in common. `<s>` is put before every
text, `</s>` ends a document, `<pad>` fills a batch. Any text comes back unchanged from encode and decode.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from zerogate.bases.pocket import corpus

VOCABULARY = 4096
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2
MAX_LENGTH = 1024


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the BPE on `texts` and wrap it for transformers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def main() -> None:
    """Train the tokenizer on a slice of the corpus and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds text/ and squad/ (default: $ZEROGATE_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write tokenizer.json and its config to")
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(tokenizer_texts(corpus.data_folder(arguments.data)))
    tokenizer.save_pretrained(arguments.out)
    print(f"{len(tokenizer):,} tokens in {arguments.out}")


def tokenizer_texts(folder: Path) -> list[str]:
    """What the vocabulary is learnt from: two world rounds and about three times as much free text."""
    return corpus.world_round(0) + corpus.world_round(1) + corpus.free_text(folder)[:3500]


if __name__ == "__main__":
    main()
