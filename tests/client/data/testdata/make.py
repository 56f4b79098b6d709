"""Writes small tokenizers and what the `tokenizers` library (0.23) makes of some texts with them.

    pip install tokenizers && python make.py          # tokenizers.jsonl: one case a line
"""
import json
import os
import sys

from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
SPACE = "\u2581"


def byte_characters():
    keep = [*range(33, 127), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, extra = {b: chr(b) for b in keep}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return table


BYTES = byte_characters()


def model(alphabet, merges, **options):
    vocab = {}
    for token in alphabet:
        vocab.setdefault(token, len(vocab))
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    base = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {**base, **options, "vocab": vocab, "merges": [list(m) for m in merges]}


WORDS = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("t", "h"), ("th", "e"), ("i", "n"), ("a", "b"), ("b", "a"),
         ("ab", "ab"), ("1", "2"), ("12", "3"), ("a", "a"), ("aa", "aa"), ("aaaa", "aaaa")]


def byte_level(**options):
    g = BYTES[32]
    merges = WORDS + [(g, g), (g, "the"), (g, "hello"), (g, "12")]
    return model([BYTES[b] for b in range(256)], merges, **options)


def sentencepiece(**options):
    alphabet = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    alphabet += [SPACE] + list("abcdefghilnopqrstuvwxyz.,!123\u00e9\u4e2d")
    merges = WORDS + [(SPACE, "the"), (SPACE, "hello"), (SPACE, SPACE), (SPACE, "th")]
    return model(alphabet, merges, unk_token="<unk>", **options)


def plain(**options):
    return model(["<unk>"] + list("abcdefghijklmnopqrstuvwxyz 0123456789.,!?'-_\u00e9") + [SPACE], WORDS, **options)


def suffixed(**options):
    letters = "abcdefghilnot123"
    alphabet = ["<unk>"] + list(letters) + [c + "</w>" for c in letters]
    merges = [("t", "h"), ("th", "e</w>"), ("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o</w>"), ("1", "2"), ("12", "3</w>")]
    return model(alphabet, merges, end_of_word_suffix="</w>", unk_token="<unk>", **options)


def prefixed(**options):
    letters = "abcdefghilnot123"
    vocab = {}
    merges = [("t", "##h"), ("th", "##e"), ("h", "##e"), ("##l", "##l"), ("he", "##ll"), ("hell", "##o"), ("##h", "##e"), ("##1", "##2")]
    for token in ["<unk>"] + list(letters) + ["##" + c for c in letters] + [a + b[2:] for a, b in merges]:
        vocab.setdefault(token, len(vocab))
    m = model([], [], continuing_subword_prefix="##", unk_token="<unk>", **options)
    return {**m, "vocab": vocab, "merges": [list(x) for x in merges]}


def split(kind, pattern, behavior, invert=False):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def level(use_regex=True, add_prefix_space=False):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def seq(key, *steps):
    return {"type": "Sequence", key: list(steps)}


def metaspace(scheme, do_split=True):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": do_split}


LEVEL = level()
REGEXES = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\p{L}&&[^\p{Han}]]+|\p{Han}+",
    r"\w+", r"\W+", r"[\W]", r"\h+", r"\H", r"\s", r"\S+", r"[\S]", r"[^\S]", r"\bthe\b", r"\B.", r"\d+", r"[^\D]",
    r"[[:alpha:]]+", r"[[:^alpha:]]+", r"[[:punct:]]", r"[[:space:]]+", r"[[:upper:]]", r"[a-c[x-z]]+", r"[^a-c[x-z]]+",
    r"\p{Letter}+", r"\p{^L}+", r"\P{L}+", r"\p{Greek}+", r"\p{Alpha}+", r"\p{Alnum}", r"\p{Word}+", r"\p{Uppercase_Letter}",
    r"a{1,2}+", r"a{,2}b", r"a{2}?", r"a++", r"(?<x>l)l", r"(l)\1", r"^h", r"o$", r"(?m:a.)", r"a.", r"\x{e9}", r"\u00e9", r"[\u4e00-\u9fff]",
    r"\v", r"[\v]", r"\R", r"\X", r"", r"a*", r"(?=a)", r"(?<=a)b", r"(?<!a)b", r"(?>a+)b", r"\n|\t", r"[\n\t ]", r"\.", r"[.]", r"[-a]", r"[a-]", r"[]a]", r"[\]]",
    r"{", r"a{x", r"\p{Emoji}", r"\p{Script=Latin}", r"(?i)THE", r"(?i:ſ)", r"\p{N}", r"\p{Nd}", r"\p{S}+", r"\p{Han}|\p{Hiragana}", r"\A.", r".\z", r".\Z",
]

CASES = {}


def case(name, **document):
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None}
    CASES[name] = {**base, **document}


def added(id, content, **flags):
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": id, "content": content, **base, **flags}


def template(*single, **tokens):
    return {"type": "TemplateProcessing", "single": list(single), "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in tokens.items()}}


A = {"Sequence": {"id": "A", "type_id": 0}}


def special(name):
    return {"SpecialToken": {"id": name, "type_id": 0}}


def build():
    case("byte_level", model=byte_level(), pre_tokenizer=LEVEL, decoder=LEVEL)
    case("byte_level_prefix", model=byte_level(), pre_tokenizer=level(True, True), decoder=LEVEL)
    case("byte_level_raw", model=byte_level(), pre_tokenizer=level(False), decoder=LEVEL)
    case("ignore_merges", model=byte_level(ignore_merges=True), pre_tokenizer=LEVEL, decoder=LEVEL)
    merges_as_text = byte_level()
    merges_as_text["merges"] = [" ".join(m) for m in merges_as_text["merges"]]
    case("merges_as_text", model=merges_as_text, pre_tokenizer=LEVEL, decoder=LEVEL)
    case("byte_normalizer", model=byte_level(), normalizer={"type": "ByteLevel"}, decoder=LEVEL)
    for individual in (True, False):
        case("digits_%s" % individual, model=byte_level(), decoder=LEVEL,
             pre_tokenizer=seq("pretokenizers", {"type": "Digits", "individual_digits": individual}, level(True)))
    sp = seq("normalizers", {"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    sp_decoder = seq("decoders", {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
                     {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    specials = [added(0, "<unk>", special=True), added(1, "<s>", special=True), added(2, "</s>", special=True)]
    bos = template(special("<s>"), A, special("</s>"), **{"<s>": 1, "</s>": 2})
    case("sentencepiece", model=sentencepiece(byte_fallback=True, fuse_unk=True), normalizer=sp, decoder=sp_decoder, added_tokens=specials, post_processor=bos)
    case("no_fallback", model=sentencepiece(fuse_unk=True), normalizer=sp, decoder=sp_decoder, added_tokens=specials, post_processor=bos)
    case("no_fuse", model=sentencepiece(), normalizer=sp, decoder=sp_decoder, added_tokens=specials)
    for scheme in ("first", "always", "never"):
        for do_split in (True, False):
            case("metaspace_%s_%s" % (scheme, do_split), model=sentencepiece(byte_fallback=True), added_tokens=specials, post_processor=bos,
                 pre_tokenizer=metaspace(scheme, do_split), decoder=metaspace(scheme, do_split))
    case("suffix", model=suffixed(), pre_tokenizer={"type": "Whitespace"}, decoder={"type": "BPEDecoder", "suffix": "</w>"})
    case("prefix", model=prefixed(), pre_tokenizer={"type": "WhitespaceSplit"})
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        case("normalizer_" + name, model=byte_level(), normalizer={"type": name}, pre_tokenizer=LEVEL, decoder=LEVEL)
    for left in (True, False):
        case("strip_%s" % left, model=byte_level(), normalizer={"type": "Strip", "strip_left": left, "strip_right": not left}, pre_tokenizer=LEVEL, decoder=LEVEL)
    for accents in (None, True, False):
        case("bert_%s" % accents, model=byte_level(), pre_tokenizer=seq("pretokenizers", {"type": "BertPreTokenizer"}, level(False)), decoder=LEVEL,
             normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": accents, "lowercase": accents is not False})
    case("replace_regex", model=byte_level(), normalizer={"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, pre_tokenizer=LEVEL, decoder=LEVEL)
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (True, False):
            case("split_%s_%s" % (behavior, invert), model=byte_level(), decoder=LEVEL,
                 pre_tokenizer=seq("pretokenizers", split("Regex", r"[lo]|\s", behavior, invert), level(False)))
        case("split_string_%s" % behavior, model=byte_level(), decoder=LEVEL, pre_tokenizer=seq("pretokenizers", split("String", "ab", behavior), level(False)))
        case("punctuation_%s" % behavior, model=byte_level(), decoder=LEVEL,
             pre_tokenizer=seq("pretokenizers", {"type": "Punctuation", "behavior": behavior}, level(False)))
    case("delimiter", model=byte_level(), decoder=LEVEL, pre_tokenizer=seq("pretokenizers", {"type": "CharDelimiterSplit", "delimiter": "l"}, level(False)))
    case("whitespace", model=byte_level(), decoder=LEVEL, pre_tokenizer=seq("pretokenizers", {"type": "Whitespace"}, level(False)))
    case("fixed_length", model=byte_level(), decoder=LEVEL, pre_tokenizer=seq("pretokenizers", {"type": "FixedLength", "length": 3}, level(False)))
    size = len(byte_level()["vocab"])
    flags = {"lstrip": {"lstrip": True}, "rstrip": {"rstrip": True}, "both": {"lstrip": True, "rstrip": True}, "single_word": {"single_word": True},
             "normalized": {"normalized": True}, "normalized_word": {"normalized": True, "single_word": True, "lstrip": True}, "special": {"special": True}}
    for name, flag in flags.items():
        case("added_" + name, model=byte_level(), pre_tokenizer=LEVEL, decoder=LEVEL, normalizer={"type": "Lowercase"},
             added_tokens=[added(size, "<Tag>", **flag), added(size + 1, "<Tag>x"), added(size + 2, " Hello", **flag), added(size + 3, "The", **flag)])
    case("roberta", model=byte_level(), pre_tokenizer=LEVEL, decoder=LEVEL, added_tokens=[added(size, "<s>", special=True), added(size + 1, "</s>", special=True)],
         post_processor={"type": "RobertaProcessing", "sep": ["</s>", size + 1], "cls": ["<s>", size], "trim_offsets": True, "add_prefix_space": False})
    case("nested_post", model=byte_level(), pre_tokenizer=LEVEL, decoder=LEVEL, added_tokens=[added(size, "<s>", special=True)],
         post_processor=seq("processors", LEVEL, template(special("<s>"), special("<s>"), A, **{"<s>": size})))
    case("no_decoder", model=plain(unk_token="<unk>"), pre_tokenizer=None)
    case("decoders", model=plain(unk_token="<unk>"), decoder=seq("decoders", {"type": "Replace", "pattern": {"Regex": "l+"}, "content": "L"},
         {"type": "Strip", "content": "h", "start": 1, "stop": 1}))
    for i, regex in enumerate(REGEXES):
        case("regex_%02d" % i, model=byte_level(), decoder=LEVEL, pre_tokenizer=seq("pretokenizers", split("Regex", regex, "Isolated"), level(False)))


TEXTS = [
    "", " ", "  ", "hello", " hello", "hello the hello", "Hello  The\tworld\n", "hello<Tag>hello", "hello  <Tag>  hello", "<Tag>x <TAG>x <tag>", "aThe The The. the",
    " Hello Hello  Hello", "aaaaaaaaaaaaa", "ababababa abab", "123 1234 12345 \u0663\u0664 \u00b2 \u2167 \u4e94", "it's he'll WE'LL I'M'S 's", "<s>hello</s> <unk> <0x41>",
    "e\u0301 \u00e9 \u212b \ufb01 \u1e9b\u0323", "\u4e2d\u6587 \u3053\u3093 hello\u3000the", "\U0001F468\u200d\U0001F469\u200d\U0001F467 \U0001F1E9\U0001F1EA", "a\u00a0b\u180ec\u200bd\u2028e\x85f\x0bg\x1ch",
    "\u0130\u0131\u00df\u1e9e\u03a3\u03c2", "x\u0000y\u0007", "\r\n\r\n a \r\n", "a_b-c.d,e!f?g$h+i=j^k`l|m~n", "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u05e9\u05b8\u05dc", "\u2581\u2581hello\u2581the", "{a{x}{2}",
    "ab abx xab ab", "caf\u00e9 CAF\u00c9 cafe\u0301", "tab\tend\n\n\n", "ha hha hh h", "\ufffd\ufeffa", "ABCabc XYZxyz deadBEEF", "\u00aa\u02b0\u01c5\u24b6\u2460",
]


def expected(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    full = tokenizer.encode(text, add_special_tokens=True).ids
    row = {"ids": ids, "ids_with_special": full, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
           "decoded_skip_special": tokenizer.decode(full, skip_special_tokens=True)}
    # What goes without saying is left out.
    usual = {"ids_with_special": ids, "decoded": text, "decoded_skip_special": row["decoded"]}
    return {key: value for key, value in row.items() if key not in usual or value != usual[key]}


def main():
    build()
    # Byte-level vocabularies are the same in nearly all cases and are written once.
    models, rows = [], []
    for name, document in CASES.items():
        try:
            tokenizer = Tokenizer.from_str(json.dumps(document))
        except Exception as error:
            print("left out:", name, document["pre_tokenizer"], error, file=sys.stderr)
            continue
        if document["model"] not in models:
            models.append(document["model"])
        values = []
        for text in TEXTS:
            try:
                values.append(expected(tokenizer, text))
            except BaseException as error:  # the library panics on some inputs
                values.append(None)
                print("left out:", name, repr(text), error, file=sys.stderr)
        rows.append({"name": name, "tokenizer": {**document, "model": models.index(document["model"])}, "expected": values})
    with open(os.path.join(HERE, "tokenizers.jsonl"), "w") as out:
        print(json.dumps({"models": models, "texts": TEXTS}), file=out)
        for row in rows:
            print(json.dumps(row, separators=(",", ":")), file=out)


main()
