"""Names of columns that mean something: lists in several languages, each entry with its reason."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_NAMES_A_ROW = re.compile(
    r"(?:^|[_.-])(?i:[cpu]?id|idcode|uuid|guid|key|nr|number|no|rownames|index)$"
    r"|[a-z](?:Id|ID|Uuid|UUID|Key|Number|No|Nr)$"
)


def listed(names: str) -> frozenset[str]:
    return frozenset(names.split())


_GROUPS = (
    "white wht black asian oriental indigenous weiss schwarz asiatisch blanc blanche noir noire asiatique"
    " blanco blanca negro negra bianco bianca nero nera asiatico asiatica branco branca preto preta pardo"
    " parda"
)
"""Names of groups of people that are colours and adjectives, too."""
_PROTECTED = {
    "sex": "sex gender geschlecht sexe sexo sesso kon genero genre male female",
    "race or ethnic origin": "race ethnic ethnicity rasse ethnie raza etnia herkunft hautfarbe razza"
    " minority hispanic hispan hisp nonwhite nonblack nwhite latino latina afam africanamerican caucasian"
    " aboriginal amerindian mestizo mestiza mulatto mulatta indigena caucasico " + _GROUPS,
    "age": "age senior agegroup alter edad eta idade leeftijd dob birth birthdate birthday birthyear yob"
    " geburt geburtsdatum geburtsjahr naissance nacimiento nascita",
    "religion or belief": "religion religious religiousness konfession glaube religione religiao faith"
    " belief",
    "disability": "disability disabled behinderung handicap discapacidad disabilita invalid impairment",
    "nationality or origin": "nationality citizenship citizen staatsangehorigkeit nationalitat nationalite"
    " nacionalidad nazionalita immigrant migrant foreign foreignworker native",
    "marital status": "marital married marr familienstand matrimonial matrimoniale civil maritalstatus"
    " maritl divorced spouse zivilstand rlthp single",
    "pregnancy or parenthood": "pregnant pregnancy schwanger children kids kinder enfants hijos numdeps kid",
    "sexual orientation": "orientation lgbt",
    "political opinion or union": "political party union democrat republican gewerkschaft syndicat sindicato",
    "genes": "genetic genotype mutation mutant",
}
_NOT_OF_A_GROUP = ("nonwhite", "nonblack", "nonasian", "nonhispanic")
_WHY = {name: why for why, names in _PROTECTED.items() for name in names.split()}
_ONLY_WITH = {
    "party": {"political"},
    "political": {"party", "opinion", "view", "views", "affiliation", "orientation"},
    "civil": {"status", "estado", "etat", "stato"},
    "orientation": {"sexual"},
    "native": {"country", "born", "language"},
    "birth": {"", "date", "day", "month", "year", "yr", "dt", "time"},
    "alter": {""},
    "male": {""},
    **{group: {"", "is"} for group in _GROUPS.split()},
    "single": {""},
    "female": {""},
}  # words that mean it beside one of these alone; "" stands for nothing beside it
_THINGS = listed(
    "house home building property car vehicle machine equipment account policy loan contract product file"
    " domain site website page company firm business device server engine tree roof battery invoice"
)
"""Things that have an age, too, and no rights."""
_PEOPLE = listed(
    "holder owner customer client applicant person driver buyer tenant employee user member patient subject"
    " household student kunde cliente"
)
_FIRMS = listed("company firm firma entreprise societe empresa azienda impresa")
_PERSONAL = listed(
    "firstname lastname surname fullname vorname nachname familienname prenom nom nombre apellido apellidos"
    " cognome email mail phone telephone telefon telefono mobile handy address adresse anschrift direccion"
    " indirizzo street strasse ssn iban passport sozialversicherungsnummer nif dni nino ip ipaddress"
    " licenseplate kennzeichen"
)
_AFTERWARDS = listed(
    "outcome result recovered recovery recoveries settled settlement chargeoff chargedoff collection"
    " collections closed closing cancelled canceled cancellation churndate exitdate resolution resolved"
    " discharge discharged death deceased actual final next future followup duration writeoff ausgang"
    " abschluss kundigung resultat resultado"
)
_POSITIVE = listed(
    "yes true y 1 bad default defaulted churn churned fraud positive pos malignant spam died dead approved"
    " good_risk ja oui si sim presence present case failure failed fail abnormal survived"
)
_YES_AND_NO = (
    {"yes", "no"},
    {"y", "n"},
    {"true", "false"},
    {"ja", "nein"},
    {"oui", "non"},
    {"si", "no"},
    {"sí", "no"},
    {"sim", "não"},
)
_WEIGHTS = listed("pweight fnlwgt finalweight sampleweight samplingweight sampwt perwt surveyweight")
_WEIGHED = listed(
    "birth body net gross car vehicle mother father initial loss kg lb lbs gram grams brain baby dry fresh"
)
"""Words beside which a weight is one of a thing or a body."""
_FEW = 20  # values, of which none finds a person
_VALUES = {
    "sex": listed(
        "male female m f man woman men women mann frau mannlich weiblich homme femme hombre mujer masculino"
        " femenino uomo donna maschio femmina"
    ),
    "race or ethnic origin": listed(
        "black white asian hispanic latino latina african caucasian indigenous afro mestizo mestiza native"
        " asiatisch afrikanisch africain africaine asiatique africano africana asiatico asiatica indigena"
        " mulatto mulatta caucasico blanco blanca negro negra branco branca preto preta pardo parda"
    ),
    "marital status": listed(
        "single married divorced widowed separated unmarried ledig verheiratet geschieden"
    ),
}
_NEUTRAL = listed("other unknown missing na none nan mixed two more not reported andere sonstige autre otro")
"""Words of values that stand beside those above."""
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[a-zA-Z]{2,}")


def words(name: str) -> list[str]:
    """`NativeCountry`, `native-country` → native, country; small letters without accents."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain)
    return [word for word in re.split(r"[^a-z]+", plain.lower()) if word]


def protected(name: str) -> str | None:
    """The attribute that a column of this name holds, as the law of many places protects it."""
    found = words(name)
    of_a_thing = bool(_THINGS & set(found)) and not _PEOPLE & set(found)
    group = found[-1] if len(found) == 2 and not _THINGS & set(found) else ""
    if found and (group in _GROUPS.split() or found[-1].startswith(_NOT_OF_A_GROUP)):
        return "race or ethnic origin"  # `owner_black`, `nonblackandnonwhite`; an adjective stands first
    for word in [*found, "".join(found)]:
        beside = _ONLY_WITH.get(word)
        if word in _WHY and (beside is None or beside & set(found if len(found) > 1 else [""])):
            return None if of_a_thing and _WHY[word] == "age" else _WHY[word]
    return None


def protected_values(texts: Iterable[str]) -> str | None:
    """The attribute that a column holds by all of its few values, two of them named as people are."""
    values = [set(words(text)) for text in texts]
    for why, known in _VALUES.items():
        named = sum(1 for value in values if value & known)
        if 2 <= named <= len(values) <= _FEW and all(value & known or value <= _NEUTRAL for value in values):
            return why
    return None


def personal(name: str, texts: list[str]) -> str | None:
    """Reason why a column of these different values names or finds a person."""
    if len(texts) <= _FEW:
        return None
    found = words(name)
    if {*found, "".join(found)} & _PERSONAL or found in (["name"], ["customer", "name"]):
        return "its name says that it names or finds a person"
    mails = sum(1 for text in texts[:200] if _EMAIL.fullmatch(text))
    return "its values are addresses of e-mail" if mails > len(texts[:200]) / 2 else None


def afterwards(name: str) -> str | None:
    """The word by which a column seems to be filled when the outcome is known."""
    found = words(name)
    return next((word for word in [*found, "".join(found)] if word in _AFTERWARDS), None)


def names_a_row(name: str) -> bool:
    """Tells whether a column is called as one that holds ids."""
    return bool(_NAMES_A_ROW.search(name))


def weighs_a_row(name: str) -> bool:
    """Tells whether a column is called as a survey's weight: `pweight`, `wt_natl`; not as somebody's."""
    found = words(name)
    if {*found, "".join(found)} & _WEIGHTS:
        return True
    return (
        len(found) > 1 and bool({found[0], found[-1]} & {"wt", "wgt", "weight"}) and not {*found} & _WEIGHED
    )


def is_somebody(name: str) -> bool:
    """Tells whether a column is called as a person or a firm, no more: `subject`."""
    return "".join(words(name)) in _PEOPLE | _FIRMS


def names_somebody(name: str) -> bool:
    """Tells whether an id is that of a person, who has more to lose than a thing."""
    return bool(set(words(name)) & _PEOPLE)


def answer_yes_or_no(values: Iterable[str]) -> bool:
    """Tells whether two values are a yes and a no, in words."""
    return {value.strip().lower().rstrip(".") for value in values} in _YES_AND_NO


def says_yes(value: str) -> bool:
    """Tells whether a value of two is the one that is asked about."""
    said = value.strip().lower().rstrip(".")
    return said in _POSITIVE or said.startswith(">")
