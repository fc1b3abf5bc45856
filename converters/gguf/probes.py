"""Texts that a tokenizer must give the same ids for after conversion as before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gguf import TokenType

from edgekit.converters.gguf.vocabulary import Vocabulary

SCRIPTS = (
    "The quick brown fox jumps over the lazy dog. It's I'll we'VE THEY'RE don't",
    "Ça coûte 12,50 € à Besançon; Größe, naïve façade, Ærøskøbing, İstanbul, žluťoučký kůň",
    "Съешь ещё этих мягких французских булок. Ελληνικά γράμματα με τόνους",
    "我想在apple工作1314151天～ 日本語の文章とカタカナ、ひらがな。 한국어 문장입니다 繁體中文",
    "مرحبا بالعالم ١٢٣ שלום עולם हिन्दी में पाठ বাংলা লেখা தமிழ் உரை ภาษาไทย កាន់តែពិសេសអាច",
    "ქართული ენა Հայերեն ትግርኛ አማርኛ ᏣᎳᎩ བོད་སྐད་ မြန်မာ ລາວ",
    "🚀 (normal) 😶‍🌫️ (joined) ✅ 🦙🦙 👩‍👩‍👧‍👦 🇩🇪 1️⃣ ♥️ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁ ﬀ ½ ² Ⅷ ①",
    "ΑΘΗΝΑ МОСКВА ÉCOLE München MÜNCHEN ПриветМир éAb ŁódźŻycie iPhone XMLHttpRequest Ǆ ǅelo",
    "e\u0301 o\u0308 n\u0303 a\u030a\u0301 zero\u200bwidth soft\u00adhyphen no\u00a0break \ufeffmark \u2028line",
)
NUMBERS = (
    "0 1 12 123 1234 12345 123456 1234567 12345678 3.14159 1,000,000 1e-5 0xFF 2024-11-22T10:30 +49 170 1234567",
    "v1.2.3 a1b2c3 10km 5% $19.99 #42 @home 7pm 3rd ٣٤٥ ４５６ 〇一二",
)
SPACES = (
    " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", "\r\n", " \n", "\n ", " \n \n", "\t\n", "\u3000", "\u00a0",
    " leading", "trailing ", "  two  spaces  ", "a\n\nb", "a \n b", "a\t\tb", "line\r\nline\r\n\r\n", "x" + " " * 17 + "y",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n", "",
)  # fmt: skip
CODE = (
    'def f(x: int) -> str:\n    if x >= 10:\n        return f"{x!r}"  # comment\n\n\tpass\n',
    '#include <stdio.h>\nint main(void) { printf("%d\\n", a[i]++ && !b); return 0; }',
    '{"people":"2 adults","date":null,"time":"7:30 pm","tags":["a","b"],"n":-1.5e3}',
    "<html><body class=\"x\">&amp;</body></html> SELECT * FROM t WHERE a='b'; $PATH=~/bin:/usr && ls -la | grep \\.py$",
    "''''''```````\"\"\"\"......!!!!!!?????? ------======= ~~~~ *** ___ <<<>>> ((([[[{{{ \\\\ // :: ;; ,,",
    "camelCase snake_case CONSTANT_CASE kebab-case path/to/file.txt https://example.com/a?b=c&d=%20#e user@example.com",
)
JOINTS = ("", " ", "\n", "\n\n", "a", " a", "Ä", "7")
"""Put around every added token: where text and token meet, ids go wrong first."""

ADDED_LIMIT = 512
"""Added tokens tried one by one; tokenizers with more (reserved ones) are sampled evenly."""


def texts(added: Sequence[str]) -> list[str]:
    """The probe texts for a tokenizer with these added tokens."""
    probes = [*SCRIPTS, *NUMBERS, *SPACES, *CODE, "".join(SCRIPTS), " ".join(NUMBERS), "".join(CODE)]
    step = max(1, len(added) // ADDED_LIMIT)
    for i, token in enumerate(added[::step]):
        left, right = JOINTS[i % len(JOINTS)], JOINTS[(i // len(JOINTS) + i) % len(JOINTS)]
        probes += [token, f"one{left}{token}{right}two", token + token]
    for joint in JOINTS:
        probes.append(joint.join(added[:8]) + joint)
    return probes


def of(vocabulary: Vocabulary) -> list[str]:
    """The probes of one vocabulary, without what its limits name."""
    kinds = zip(vocabulary.tokens, vocabulary.types, strict=True)
    added = [token for token, kind in kinds if kind in {TokenType.CONTROL, TokenType.USER_DEFINED}]
    return within(texts(added), [limit.touches for limit in vocabulary.limits], vocabulary.opening)


def within(probes: Sequence[str], touches: Sequence[Callable[[str], bool]], opening: str = "") -> list[str]:
    """The probes that a known difference doesn't touch: words that it does are taken out, each probe so opened."""
    kept = []
    for probe in probes:
        if any(touched(probe) for touched in touches):
            words = [word for word in probe.split(" ") if not any(touched(word) for touched in touches)]
            probe = " ".join(words)
        if not any(touched(probe) for touched in touches):
            kept.append(opening + probe)
    return kept
