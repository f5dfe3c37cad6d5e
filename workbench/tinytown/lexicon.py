"""The words of Tinytown, by domain: what a variable of a sentence pattern can stand for, with its inflected forms."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """Values of one kind. Every form lists the same values in the same order; `""` is the plain form."""

    forms: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if len({len(words) for words in self.forms.values()}) != 1:
            raise ValueError(f"forms of unequal length: { {form: len(words) for form, words in self.forms.items()} }")

    @property
    def words(self) -> tuple[str, ...]:
        return self.forms[""]


def _pairs(text: str) -> tuple[tuple[str, ...], ...]:
    """Columns of `a/b c/d …`."""
    return tuple(zip(*(word.split("/") for word in text.split()), strict=True))


WOMEN = tuple(
    """Mary Anna Emma Alice Clara Grace Lucy Sarah Julia Laura Helen Diana Nora Rose Ruth Sofia
    Eva Ivy Jane Kate Lily Maya Nina Olga Paula Rita Tina Vera Wendy Zoe Amy Beth""".split()
)
MEN = tuple(
    """John Paul Peter Mark Luke Tom James David Henry George Frank Simon Oscar Victor Adam Ben
    Carl Dan Eric Fred Gary Hugo Ivan Jack Kevin Leo Max Neil Otto Philip Robert Sam""".split()
)
_name = Domain(
    {
        "": WOMEN + MEN,
        "mirror": MEN + WOMEN,
        "he": ("she",) * 32 + ("he",) * 32,
        "He": ("She",) * 32 + ("He",) * 32,
        "him": ("her",) * 32 + ("him",) * 32,
        "his": ("her",) * 32 + ("his",) * 32,
        "other_he": ("he",) * 32 + ("she",) * 32,
        "other_He": ("He",) * 32 + ("She",) * 32,
    }
)

_country, _capital = _pairs(
    """France/Paris Spain/Madrid Italy/Rome Germany/Berlin Poland/Warsaw Austria/Vienna Greece/Athens Turkey/Ankara
    Norway/Oslo Sweden/Stockholm Finland/Helsinki Denmark/Copenhagen Ireland/Dublin Portugal/Lisbon Hungary/Budapest
    Romania/Bucharest Russia/Moscow China/Beijing Japan/Tokyo India/Delhi Egypt/Cairo Kenya/Nairobi Ghana/Accra
    Peru/Lima Chile/Santiago Cuba/Havana Canada/Ottawa Iran/Tehran Iraq/Baghdad Nepal/Kathmandu Vietnam/Hanoi
    Thailand/Bangkok"""
)

_surname, _home, _job = _pairs(
    """Abbott/Oslo/baker Barnes/Lima/doctor Carter/Rome/teacher Dalton/Cairo/farmer Ellis/Paris/painter
    Foster/Tokyo/lawyer Graham/Vienna/nurse Harper/Madrid/pilot Irving/Delhi/writer Jensen/Berlin/singer
    Keller/Dublin/dentist Larson/Athens/sailor Mercer/Havana/tailor Norris/Warsaw/miller Osborn/Moscow/judge
    Palmer/Accra/porter Quincy/Hanoi/chemist Reeves/Lisbon/butcher Sutton/Ottawa/soldier Turner/Beijing/dancer
    Upton/Ankara/gardener Vaughn/Stockholm/barber Walker/Helsinki/carpenter Xavier/Copenhagen/plumber
    York/Budapest/waiter Zeller/Bucharest/poet Archer/Nairobi/priest Brooks/Santiago/clerk Cooper/Tehran/guard
    Draper/Baghdad/driver Fisher/Kathmandu/hunter Goodwin/Bangkok/cook"""
)

_animal, _animals = _pairs(
    """dog/dogs cat/cats horse/horses cow/cows swan/swans pig/pigs goat/goats duck/ducks hen/hens fox/foxes wolf/wolves
    bear/bears lion/lions tiger/tigers rabbit/rabbits mouse/mice frog/frogs bird/birds crow/crows hawk/hawks
    monkey/monkeys donkey/donkeys camel/camels snake/snakes"""
)
_thing, _things = _pairs(
    """book/books ball/balls box/boxes key/keys lamp/lamps clock/clocks coat/coats hat/hats ring/rings coin/coins
    cup/cups plate/plates spoon/spoons knife/knives basket/baskets bottle/bottles letter/letters picture/pictures
    mirror/mirrors candle/candles chair/chairs table/tables blanket/blankets pillow/pillows drum/drums flute/flutes
    violin/violins kite/kites doll/dolls rope/ropes ladder/ladders hammer/hammers bucket/buckets wheel/wheels cart/carts
    boat/boats flag/flags map/maps pen/pens brush/brushes drink/drinks"""
)
_person, _persons = _pairs(
    """boy/boys girl/girls child/children neighbour/neighbours stranger/strangers guest/guests king/kings queen/queens
    prince/princes princess/princesses friend/friends cousin/cousins"""
)
_noun = _animal + _thing + _person
_nouns = _animals + _things + _persons
_verb_s, _verb_p = _pairs(
    """runs/run sleeps/sleep jumps/jump waits/wait sings/sing falls/fall moves/move stands/stand shines/shine
    grows/grow stays/stay rests/rest turns/turn hides/hide is/are was/were has/have looks/look seems/seem
    smells/smell"""
)

_masculine, _masculine_english = _pairs(
    """chien/dog chat/cat cheval/horse cochon/pig canard/duck loup/wolf lion/lion lapin/rabbit corbeau/crow faucon/hawk
    singe/monkey chameau/camel serpent/snake livre/book ballon/ball manteau/coat chapeau/hat couteau/knife
    panier/basket miroir/mirror tambour/drum violon/violin marteau/hammer bateau/boat"""
)
_feminine, _feminine_english = _pairs(
    """vache/cow chèvre/goat poule/hen souris/mouse grenouille/frog tortue/turtle boîte/box clé/key lampe/lamp
    montre/watch bague/ring tasse/cup fourchette/fork cuillère/spoon bouteille/bottle lettre/letter bougie/candle
    chaise/chair couverture/blanket poupée/doll corde/rope brouette/barrow roue/wheel carte/map"""
)
_grand, _grande = _pairs(
    """grand/grande petit/petite vert/verte blanc/blanche noir/noire vieux/vieille beau/belle fort/forte lourd/lourde
    rond/ronde chaud/chaude froid/froide"""
)

_day = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
_month = tuple("January February March April May June July August September October November December".split())
_number = tuple(
    """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty""".split()
)
_letter = tuple("A B C D E F G H I J K L M N O P Q R S T U V W X Y Z".split())
_glad, _sad = _pairs(
    "happy/sad glad/upset pleased/angry cheerful/gloomy delighted/miserable proud/ashamed calm/worried content/bitter"
)


def _cycle(words: tuple[str, ...]) -> Domain:
    """An endless order: after the last comes the first."""
    return Domain({"": words} | {f"next{k}": words[k:] + words[:k] for k in (1, 2, 3, 4)})


def _ladder(words: tuple[str, ...], reach: int = 4) -> Domain:
    """An order with an end: values are the starts from which `reach` steps can be taken."""
    n = len(words) - reach
    return Domain({"": words[:n]} | {f"next{k}": words[k : n + k] for k in range(1, reach + 1)})


def _words(text: str) -> Domain:
    return Domain({"": tuple(text.split())})


DOMAINS: dict[str, Domain] = {
    "name": _name,
    "country": Domain({"": _country, "capital": _capital}),
    "surname": Domain({"": _surname, "home": _home, "job": _job}),
    "city": Domain({"": _capital}),
    "animal": Domain({"": _animal, "plural": _animals}),
    "thing": Domain({"": _thing, "plural": _things}),
    "person": Domain({"": _person, "plural": _persons}),
    "noun": Domain({"": _noun, "plural": _nouns}),
    "verb": Domain({"": _verb_s, "plural": _verb_p}),
    "masculine": Domain({"": _masculine, "english": _masculine_english}),
    "feminine": Domain({"": _feminine, "english": _feminine_english}),
    "grand": Domain({"": _grand, "feminine": _grande}),
    "day": _cycle(_day),
    "month": _cycle(_month),
    "number": _ladder(_number),
    "letter": _ladder(_letter),
    "year": Domain({"": tuple(f"{n:02d}" for n in range(100))}),
    "century": Domain({"": tuple(str(n) for n in range(110, 120))}),
    "glad": Domain({"": _glad, "sad": _sad}),
    "good": _words(
        "good great lovely wonderful delicious splendid charming superb perfect nice excellent brilliant pretty fine"
    ),
    "bad": _words("bad awful ugly horrible dreadful nasty terrible poor filthy rotten boring broken stale"),
    "bracket": Domain({"": ("(", "[", "{", "«"), "close": (")", "]", "}", "»")}),
    "place": _words(
        """store park school market garden library museum station beach river forest castle church theatre bakery
        bridge harbour village hotel farm hospital cinema office kitchen"""
    ),
    "food": _words(
        """bread cheese soup cake rice fish honey butter fruit salad stew porridge pie corn ham toast pasta bacon
        jam milk tea coffee juice"""
    ),
    "colour": _words("red blue green yellow white black brown purple golden grey pink silver"),
    "size": _words("big small tall short wide narrow heavy light long tiny huge thin"),
    "weather": _words("sunny rainy windy cloudy snowy foggy stormy warm cold hot"),
    "job": Domain({"": _job}),
    "event": _words("war festival voyage strike drought siege truce reign trial plague"),
    "handed": _words("gave handed passed offered brought sent lent showed"),
    "went": _words("went walked ran hurried drove cycled wandered travelled"),
    "saw": _words("saw found liked wanted bought lost dropped hid painted cleaned carried kept"),
    "variable": _words("b c d e f g h i j k m n p q r s t u v w x y z"),
    "function": _words("add sub mul div min max get set load save sort join"),
    "french_verb": _words("mange regarde cherche trouve aime porte garde voit"),
}
