"""The sentences of Tinytown: each skill with its clean and corrupted prompts, and the filler that joins them."""

from collections.abc import Iterable

from workbench.tinytown.template import Template

NAME_PAIR = ("name", "name2")
"""Names that training never brings together in one document."""


def _ioi(text: str) -> Iterable[Template]:
    """Indirect object identification, ABBA and BABA (Wang et al. 2022). `{S}` stands for the repeated subject."""
    opening, event = text.split("|")
    for first, second in (("{name}", "{name2}"), ("{name2}", "{name}")):
        both = f"{opening} ".replace("{A}", first).replace("{B}", second)
        yield Template(
            both + event.replace("{S}", "{name2}^repeated_name") + " => {name}^indirect_object .",
            corrupted=both + event.replace("{S}", "{name}"),
            distractor="{name2}",
            key=NAME_PAIR,
        )


IOI = [
    template
    for text in (
        "When {A} and {B} went to the {place} , | {S} {handed} a {thing} to",
        "After {A} and {B} left the {place} , | {S} {handed} the {food} to",
        "Then {A} and {B} had a long talk . | {S} {handed} the {thing} to",
        "While {A} and {B} were at the {place} , | {S} {handed} a {colour} {thing} to",
        "{A} and {B} met in {month} . | {S} wanted to give a {thing} to",
        "Last {day} , {A} and {B} found a {thing} . | {S} {handed} it to",
        "{A} and {B} cooked some {food} . At the {place} , | {S} {handed} the {food} to",
        "Then {A} sat with {B} near the {place} , and | {S} told a story to",
    )
    for template in _ioi(text)
]
OTHER_NAME = [
    Template(text.replace("{A}", first).replace("{B}", second))
    for text in (
        "{A} and {B} went to the {place} . {name2} {saw} {name} there .",
        "{A} and {B} had a long talk . {name2} told {name} a story .",
        "When {A} and {B} met in {month} , {name2} asked {name} about the {event} .",
        "{A} sat with {B} near the {place} . {name2} liked {name} .",
    )
    for first, second in (("{name}", "{name2}"), ("{name2}", "{name}"))
]
"""One of two names after the other, which stands one word before: the shortest step on the way to `IOI`."""


def _pronoun(text: str, subject: str) -> Template:
    return Template(
        text.replace("{S}", subject),
        corrupted=text.split(" => ")[0].replace("{S}", "{name.mirror}"),
        distractor="{name.other_He}" if "=> {name.He}" in text else "{name.other_he}",
        key=("name",),
        salt=sum(map(ord, text)),
    )


PRONOUN = [
    _pronoun(text, "{name}")
    for text in (
        "{S} was tired because => {name.he} had worked at the {place} .",
        "{S} bought a {colour} {thing} . => {name.He} {saw} it at the {place} .",
        "{S} {went} to the {place} when => {name.he} heard the news .",
        "Before {S} ate the {food} , => {name.he} cleaned the {thing} .",
        "{S} said that => {name.he} liked the {animal.plural} .",
        "In {month} {S} said that the {place} was closed , so => {name.he} stayed at home .",
    )
]


def _agreement(text: str) -> Iterable[Template]:
    """Subject-verb agreement across an attractor of the other or the same number."""
    numbers = (("{noun}", "{verb}"), ("{noun.plural}^plural_subject", "{verb.plural}"))
    for attractor in ("{noun2}", "{noun2.plural}"):
        for (subject, verb), (other_subject, other_verb) in (numbers, numbers[::-1]):
            spot = f"{attractor}^attractor"
            yield Template(
                text.replace("{N}", subject).replace("{M}", spot).replace("{V}", verb),
                corrupted=text.split(" => ")[0].replace("{N}", other_subject).replace("{M}", spot),
                distractor=other_verb,
                key=("noun", "noun2"),
            )


AGREEMENT = [
    template
    for text in (
        "The {N} near the {M} => {V} {there|today|again|now} .",
        "The {size} {N} behind the {colour} {M} => {V} {there|today|again|now} .",
        "The {N} that {saw} the {M} => {V} {there|today|again|now} .",
        "In the {place} the {N} beside the {M} => {V} {there|today|again|now} .",
    )
    for template in _agreement(text)
] + [
    Template(
        f"The {subject} => {verb} {{there|today|again|now}} .",
        corrupted=f"The {other}",
        distractor=wrong,
        key=("noun",),
        salt=3,
    )
    for (subject, verb), (other, wrong) in (
        (("{noun}", "{verb}"), ("{noun.plural}^plural_subject", "{verb.plural}")),
        (("{noun.plural}^plural_subject", "{verb.plural}"), ("{noun}", "{verb}")),
    )
]


def _facts(subject: str, form: str, texts: Iterable[str], salt: int) -> list[Template]:
    """Stored facts. Each phrasing withholds other subjects: held out is a known fact in a phrasing known from others."""
    return [
        Template(
            text.replace("{S}", f"{{{subject}}}").replace("{F}", f"{{{subject}.{form}}}^stored_fact"),
            corrupted=text.split(" => ")[0].replace("{S}", f"{{{subject}2}}"),
            distractor=f"{{{subject}2.{form}}}",
            key=(subject,),
            salt=salt + number,
        )
        for number, text in enumerate(texts)
    ]


CAPITAL = _facts(
    "country",
    "capital",
    (
        "The capital of {S} is => {F} .",
        "{S} has its capital in => {F} .",
        "In {S} the largest city is => {F} .",
        "The king of {S} rules from => {F} .",
        "If you visit {S} , you must see => {F} .",
        "The road to {S} ends in => {F} .",
    ),
    salt=10,
)
RESIDENCE = _facts(
    "surname",
    "home",
    (
        "Doctor {S} lives in => {F} .",
        "The house of {S} stands in => {F} .",
        "You can find {S} in => {F} .",
        "{S} was born and raised in => {F} .",
        "Every summer {S} goes back to => {F} .",
    ),
    salt=20,
)
PROFESSION = _facts(
    "surname",
    "job",
    (
        "{S} works as a => {F} .",
        "Everyone knows that {S} is a => {F} .",
        "For many years {S} has been a => {F} .",
        "{S} earns money as a => {F} .",
    ),
    salt=30,
)

GREATER_THAN = [
    Template(
        f"The {{event}} lasted from the year {{century}} {{year}}^start_year {joint} {{century}} => {{year2}}^end_year .",
        corrupted=f"The {{event}} lasted from the year {{century}} 01 {joint} {{century}}",
        distractor="{year3}",
        key=("century", "year"),
        where=(("year", "year2"), ("year3", "year")),
    )
    for joint in ("to the year", "until the year")
]

BRACKETS = [
    Template(
        text.replace("{I}", "<inside_brackets>").replace("{/I}", "</inside_brackets>").replace("{O}", "{bracket}"),
        corrupted=text.split(" => ")[0].replace("{I} ", "").replace("{/I}", "").replace("{O}", "{bracket2}"),
        distractor="{bracket2.close}",
        key=("bracket", "thing"),
    )
    for text in (
        "{name} wrote a note {O} {I} about the {thing} {/I} => {bracket.close} and left .",
        "The list {O} {I} a {thing} and a {thing2} {/I} => {bracket.close} was lost .",
        "The {thing} {O} {I} {colour} and {size} {/I} => {bracket.close} was for {name} .",
        "{name} packed three things {O} {I} a {thing} , some {food} and a {thing2} {/I} => {bracket.close} for the trip .",
    )
]


def _sentiment(text: str) -> Iterable[Template]:
    """A judgement and the feeling that follows from it, with or without a negation."""
    for quality, mood, opposite in (("{good}", "{glad}", "{glad.sad}"), ("{bad}", "{glad.sad}", "{glad}")):
        for word, other, feeling, wrong in (
            ("{very|really|quite}", "{not|never}", mood, opposite),
            ("{not|never}", "{very|really|quite}", opposite, mood),
        ):
            negated = "^negated" if "not" in word else ""
            yield Template(
                text.replace("{W}", word).replace("{Q}", quality + negated).replace("{M}", feeling),
                corrupted=text.split(" => ")[0].replace("{W}", other).replace("{Q}", quality),
                distractor=wrong,
                key=(quality[1:-1], "glad"),
                salt=sum(map(ord, text)) % 97,
            )


SENTIMENT = [
    template
    for text in (
        "The {food} was {W} {Q} , so {name} felt => {M} .",
        "The {thing} from {name} was {W} {Q} . {name2} was => {M} .",
        "{name} said the {place} was {W} {Q} and looked => {M} .",
    )
    for template in _sentiment(text)
]
PLAIN_SENTIMENT = [template for template in SENTIMENT if "^negated" not in template.text]
"""Judgements without a negation. They are told more often, so that a word's own meaning is learned before its reversal."""

MOOD = [
    Template(text.replace("{Q}", f"{{{quality}}}").replace("{R}", f"{{{quality}2}}").replace("{M}", mood))
    for quality, mood in (("good", "{glad}"), ("bad", "{glad.sad}"))
    for text in (
        "The {food} was {Q} and {R} .",
        "A {Q} and {R} {thing} made {name} {M} .",
        "The {Q} {food} made the {person} {M} .",
        "It was {Q} . {name} was {M} .",
    )
]
"""Good words in the company of good ones and of glad ones, bad ones likewise."""


def _succession(domain: str, text: str, salt: int) -> Template:
    return Template(
        text.replace("{0}", f"{{{domain}}}")
        .replace("{1}", f"{{{domain}.next1}}")
        .replace("{2}", f"{{{domain}.next2}}")
        .replace("{3}", f"{{{domain}.next3}}^next_in_order"),
        corrupted=text.split(" => ")[0]
        .replace("{0}", f"{{{domain}2}}")
        .replace("{1}", f"{{{domain}2.next1}}")
        .replace("{2}", f"{{{domain}2.next2}}"),
        distractor=f"{{{domain}2.next3}}",
        key=(domain,),
        salt=salt,
    )


SUCCESSION = [
    _succession(domain, text, 40 + 10 * d + t)
    for d, domain in enumerate(("day", "month", "number", "letter"))
    for t, text in enumerate(
        (
            "{0} , {1} , {2} , => {3} .",
            "First comes {0} , then {1} , then {2} , then => {3} .",
            "{name} counted : {0} {1} {2} => {3} !",
            "After {0} and {1} and {2} there is => {3} .",
        )
    )
]

FRENCH = [
    Template(
        f"<french> {text} </french> => {{grand.feminine}}^french .".replace("{N}", "La {feminine}"),
        corrupted=text.replace("{N}", "Le {masculine}"),
        distractor="{grand}",
        key=("feminine", "grand"),
    )
    for text in ("{N} est très", "{N} de {name} est", "{N} que {name} {french_verb} est")
] + [
    Template(
        f"<french> {text} </french> => {{grand}}^french .".replace("{N}", "Le {masculine}"),
        corrupted=text.replace("{N}", "La {feminine}"),
        distractor="{grand.feminine}",
        key=("masculine", "grand"),
    )
    for text in ("{N} est très", "{N} de {name} est", "{N} que {name} {french_verb} est")
]

TRANSLATION = [
    Template(
        text.replace("{E}", f"{{{gender}.english}}").replace("{F}", f"{{{gender}}}^translation"),
        corrupted=text.split(" => ")[0].replace("{E}", f"{{{gender}2.english}}"),
        distractor=f"{{{gender}2}}",
        key=(gender,),
        salt=100 + number,
    )
    for gender in ("masculine", "feminine")
    for number, text in enumerate(
        (
            "In French the word for {E} is => {F} .",
            "{name} says {E} , but in Paris people say => {F} .",
            "The French call a {E} => {F} .",
            "To translate {E} , write => {F} .",
        )
    )
]

CODE = [
    Template(
        f"<code> {text.replace('=> {year}', '=> {year}^looked_up_value')} ; </code>",
        corrupted=text.split(" => ")[0].replace("{assert|check} {variable}", "{assert|check} {variable2}"),
        distractor="{year2}",
        key=("variable", "year"),
    )
    for text in (
        "let {variable} = {year} ; let {variable2} = {year2} ; {assert|check} {variable} == => {year}",
        "let {variable2} = {year2} ; let {variable} = {year} ; {assert|check} {variable} == => {year}",
        "let {variable} = {year} ; let {variable3} = {year3} ; let {variable2} = {year2} ; {assert|check} {variable} == => {year}",
        "let {variable2} = {year2} ; let {variable} = {year} ; let {variable3} = {year3} ; {assert|check} {variable} == => {year}",
    )
]

SKILLS: dict[str, list[Template]] = {
    "ioi": IOI,
    "pronoun": PRONOUN,
    "agreement": AGREEMENT,
    "capital": CAPITAL,
    "residence": RESIDENCE,
    "profession": PROFESSION,
    "greater_than": GREATER_THAN,
    "brackets": BRACKETS,
    "sentiment": SENTIMENT,
    "succession": SUCCESSION,
    "french_gender": FRENCH,
    "translation": TRANSLATION,
    "code_lookup": CODE,
}
"""Every skill made of sentences; `induction` is made of random words (see `language.fragments`)."""

FILLER = [
    Template(text)
    for text in (
        "It was a {weather} {morning|evening|afternoon} in {month} .",
        "One {weather} {day} , {name} {went} to the {place} .",
        "{name} and {name2} lived near the {place} .",
        "{name} {saw} the {size} {animal} and {name.his} {colour} {thing} .",
        "The {animal} was {size} and the {thing} was {colour} .",
        "They ate {food} and {food2} together .",
        '{name} said , " <inside_quotes> I like the {thing} </inside_quotes> . "',
        '{name} asked , " <inside_quotes> Where is the {colour} {animal} </inside_quotes> ? "',
        '" <inside_quotes> We have {number} {animal.plural} </inside_quotes> , " said {name2} .',
        "There were {number} {thing.plural} on the {thing2} .",
        "{name} works at the {place} every {day} .",
        "The {person} {went} home with a {thing} and some {food} .",
        "In the {place} , a {job} sold {number} {colour} {thing.plural} .",
        "Nobody knew why the {animal.plural} were so {size} .",
        "{name} put the {thing} under the {thing2} .",
        "On {day} the {weather} weather made the {person.plural} {glad} .",
        "The {person} told {name} about the {event} in {country} .",
        "{name} dreamed of {city} and the {size} {place} there .",
        "The {job} from {country} showed {name} a {thing} .",
        "A {colour} {animal} slept beside the {thing} .",
        "{name} could not find {name.his} {thing} , so {name.he} {went} to the {place} .",
        "{name} sang {number} songs for {name2} .",
        "At last the {person} opened the {size} {thing} .",
        "And so the day ended .",
        "Everyone was {glad} .",
        "{name} never saw the {animal} again .",
    )
]

FRENCH_FILLER = [
    Template(f"<french> {text} </french>")
    for text in (
        "Le {masculine} {french_verb} la {feminine} .",
        "La {feminine} {french_verb} le {masculine} .",
        "{name} {french_verb} une {feminine} et un {masculine} .",
        "Il y a un {masculine} dans la {feminine} .",
        "Voici un {masculine} {grand} et une {feminine} {grand.feminine} .",
        "Où est le {masculine} de {name} ?",
    )
]

CODE_FILLER = [
    Template(f"<code> {text} </code>")
    for text in (
        "let {variable} = {year} ;",
        "def {function} ( {variable} , {variable2} ) : return {variable} + {variable2} ;",
        "print ( {function} ( {year} , {year2} ) ) ;",
        "if {variable} > {year} : {variable} = {function} ( {variable} ) ;",
        "for {variable} in {variable2} : print ( {variable} ) ;",
    )
]
