"""Words that spaCy's English tokenizer cuts, or keeps whole, against its rules: can't, a.m., :-).

Only the lower-case entries: the text rules lower every text before it is cut.

Source: tokenizer_exceptions.py in spacy/lang/en and in spacy/lang, spaCy 3.8.18, MIT licence,
copyright ExplosionAI GmbH; rewritten as products of word lists.
"""

from __future__ import annotations

from functools import cache

# Kept whole. Emoticons and "a." would otherwise fall apart at their punctuation.
_WHOLE = r"""
' '' 'bout 'cause 'cos 'coz 'cuz 'd 'em 'll 'nuff 're 's ‘s em ll nuff and/or w/o ma'am o'clock
doin goin havin lovin nothin nuthin ol somethin
doin' goin' havin' lovin' nothin' nuthin' ol' somethin'
a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü.
a.m. p.m. co. e.g. i.e. v.s. vs. — \n \t \") <space>
:) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] ]= :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (;
(-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| =[ :1 :p :-p
:o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :x :-x ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v
v_v o_o o_0 0_o 0_0 o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ
(ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>
"""
# Cut at the bar.
_CUT = """
y'|all y|all how|'d|'y not|'ve not|ve can|not gon|na got|ta let|'s c'm|on °|c|. °|f|. °|k|.
i|'m i|m i|'m|a i|m|a
"""
_PRONOUNS = "i you he she it we they"
_QUESTION_WORDS = "who what when where why how there that this these those"
_NEGATED_WITH_HAVE = (
    "ca could do does did had may might must need ought sha should wo would"  # can't've
)
_NEGATED = _NEGATED_WITH_HAVE + " ai are is was were have has dare"
# Contractions without their apostrophe that are words of their own.
_WORDS = {"ill", "its", "hell", "shell", "shed", "were", "well", "whore"}


def _endings(stems: str, *endings: str) -> list[list[str]]:
    """Every stem with every ending, with its apostrophe and without; "'ll 've" is two endings."""
    variants = [*endings, *(ending.replace("'", "") for ending in endings)]
    return [[stem, *ending.split()] for stem in stems.split() for ending in variants]


@cache
def exceptions() -> dict[str, tuple[str, ...]]:
    """Return the tokens of each exception; joined, they are the exception."""
    cut = [entry.split("|") for entry in _CUT.split()]
    cut += _endings(_PRONOUNS, "'ll", "'ll 've", "'d", "'d 've")
    cut += _endings("i you we they", "'ve")
    cut += _endings("you we they", "'re")
    cut += _endings("he she it", "'s")
    cut += _endings(_QUESTION_WORDS, "'ll", "'ll 've", "'d", "'d 've")
    cut += _endings("who what when where why how there that this", "'s")
    cut += _endings("who what when where why how there these those", "'re", "'ve")
    cut += _endings(_NEGATED_WITH_HAVE, "n't 've")
    cut += _endings(_NEGATED, "n't")
    cut += _endings("could might must should would", "'ve")
    cut += [[str(h), p] for h in range(1, 13) for p in ("a.m.", "am", "p.m.", "pm")]
    whole = [[entry] for entry in _WHOLE.split()]
    found = {"".join(tokens): tuple(tokens) for tokens in whole + cut}
    curly = {word.replace("'", "’"): tokens for word, tokens in found.items() if "'" in word}
    for word, tokens in curly.items():
        found[word] = tuple(token.replace("'", "’") for token in tokens)
    return {word: tokens for word, tokens in found.items() if word not in _WORDS}
