"""Words in names of columns that speak for an answer, or for what is known before it, in several
languages.
"""

from __future__ import annotations

from penstock.client.guess.names import listed, words

_TARGETS = listed(
    "target label outcome response dependent depvar ziel zielgrosse zielvariable cible objetivo alvo"
    " etichetta groundtruth"
)
"""Words that name a target of any type."""
_CLASSES = listed(
    "class klasse clase classe churn churned exited survived default defaulted fraud isfraud diagnosis"
    " approved loanstatus repaid readmitted attrition converted clicked subscribed loandefault"
    " creditrisk creditability deny denied denial accepted rejected granted hired admitted yesno"
)
"""Whole names of columns with few values."""
_EVENTS = listed(
    "callback released recidivism recid reoffended relapse relapsed recurrence recur convicted"
    " purchased bought purchase hired responded subscribed clicked converted enrolled graduated"
    " readmitted infected churn churned defaulted default survived approved accepted rejected denied"
    " granted repaid fraud spam phishing malware death dead died deceased alive failed passed succeeded"
    " won lost delayed cancelled canceled promoted fired attrition turnover dropout turnout participated"
    " participation participates takeup attended employed unemployed lfp laborforce insured arrested"
    " guilty cured healed remission complication hospitalized hospitalised bankrupt bankruptcy renewed"
    " malignant diseased defective kundigung gekundigt ausfall ausgefallen betrug gekauft uberlebt"
    " gestorben zahlungsausfall abgang resilie desabonne impaye fraude survecu decede achete deces"
    " abandono impago moroso sobrevivio fallecido comprado muerte abbandono frode deceduto sopravvissuto"
    " acquistato inlf premature preterm lowbirthweight affected event infection readmission relapsing"
    " presence detected conversion conviction rearrest rearrested admit admission dropped quits"
)
"""Any word of a column with two values: something happened, or not."""
_SURELY = listed(
    "status outcome event result verdict diagnosis decision ergebnis resultat resultado esito befund"
)
_PERHAPS = listed(
    "species kind category quality recommended grade vote voted choice chosen preference preferred"
    " intention opinion approval satisfaction severity sentiment emotion health improvement improved"
    " happy happiness poverty rating rank direction buy click fail failure pass success survival"
    " mortality win late returned quit insurance claim claimed accident disease case sick ill cancer"
    " detected defect broken answer answered correct smoker smoke smoking smokes drinker owner owns"
    " entscheidung zufriedenheit satisfaccion decisione approve support favor favour trust attitude"
    " agreement sureness certainty confidence condition affiliation stage injury symptoms depressed"
    " depression diabetes hypertension stroke asthma anemia zustand"
)
"""Last word of a column with few values."""
_AMOUNTS = listed(
    "price prices salary wage wages earnings income rent rental cost costs charges expenses expenditure"
    " revenue sales profit demand rating yield strength ridership consumption mileage mpg emissions gpa"
    " fare tip premium payment spending turnover output production efficiency preis miete umsatz lohn"
    " gehalt kosten einkommen prix loyer salaire revenu precio salario ventas ingresos costo prezzo"
    " affitto stipendio earn earns birthweight birthwt bwt bwght expend investment gdp exports patents"
    " citations articles publications arrests defects errors failures goals runs abundance richness"
    " biomass catch nox ozone latency loyers gastos ingreso reddito spesa ventes vendite ausgaben"
)
"""Last words that name a target with numbers."""
_LESSER = listed(
    "amount value count total rate delay duration visits trips rides claims deaths crimes"
    " crime accidents crashes points marks hours stay los time growth loss size change concentration"
    " level volume ach achievement attainment exam test math reading skill knowledge conc correct mark"
    " grade invest returns productivity energy unemployment unemp admissions doctor"
    " attendance absences bmi glucose cholesterol hardness viscosity vocab vocabulary density"
)
_FORMER = listed(
    "prior previous prev past former earlier lag lagged last pre before initial baseline base history"
    " start begin old vorher vorige precedent anterior precedente"
)
"""Words for the time before."""
_LATER = listed("final next future later post after followup end outcome nachher suivant siguiente")
_CIRCUMSTANCES = listed(
    "sex gender race ethnicity year yr years month day week weekday hour minute date season quarter"
    " period decade wave region state country county city town zip postcode zipcode district province"
    " location place address site lat latitude lon long longitude north south east west urban rural smsa"
    " continent neighborhood neighbourhood id code no nr number num index row name title key treatment"
    " treat treated trt arm group dose block plot replicate rep batch cohort fold split weights wt"
    " sample education educ edu school schooling degree nodegree college university children kids nkids"
    " numdep sibs siblings parity child household hhsize family job occupation occ industry sector"
    " profession experience exper tenure religion language marital married father mother husband wife"
    " spouse parent type brand make model manufacturer carrier airline channel platform device browser"
    " source origin destination jahr monat tag ort land gruppe annee mois jour ville pays groupe ano mes"
    " dia ciudad pais grupo anno mese giorno citta paese gruppo"
)
"""Words for people, places, times and treatments: known before, whatever was asked."""
_TIMES = ("day", "date", "week", "month", "year", "hour")
_CENSORED = listed("censor censored censoring cens zensiert censure censurado")
"""Words for a duration whose watching ended, not itself."""
_DURATIONS = listed(
    "time duration days weeks months years hours survival lifetime futime dauer duree duracion"
)
_MEASURES = listed(
    "length width height depth diameter thickness radius perimeter temperature temp humidity pressure"
    " wind rain weight color colour shape material"
)


_OCCASIONS = listed("time visit wave round session trial occasion phase zeit temps tiempo tempo")
"""Last words of a column with the time of asking, where it has few values."""


def names_a_target(name: str, *, few: bool) -> bool:
    """`few`: the column has few values."""
    found = words(name)
    return bool(set(found) & _TARGETS) or (few and "".join(found) in _CLASSES)


def names_an_event(name: str) -> bool:
    """Tells whether a column of two values is an answer: somebody was hired, or not."""
    return bool({*words(name), "".join(words(name))} & _EVENTS)


def names_a_result(name: str) -> bool:
    """Tells whether a column of few values is an answer."""
    return bool({*words(name)[-1:]} & _SURELY)


def may_name_a_target(name: str) -> bool:
    """Tells whether a column of few values is more often an answer than an input."""
    found = words(name)
    return _ends(found[:-1] if found[-1:] == ["ind"] else found, _PERHAPS)


def names_an_amount(name: str) -> bool:
    """Tells whether a column of numbers is more often an answer than an input."""
    found = words(name)
    return _ends(found, _AMOUNTS) or found[:2] in (["time", "to"], ["time", "until"])


def names_a_lesser_amount(name: str) -> bool:
    found = words(name)
    logarithm = found[:1] in (["ln"], ["log"]) or found[-1:] == ["log"]
    return bool({*found[-1:]} & _LESSER) or logarithm or found in (["score"], ["test", "score"])


def names_what_was_before(name: str) -> bool:
    return bool(set(words(name)) & _FORMER)


def names_what_comes_after(name: str) -> bool:
    return bool(set(words(name)) & _LATER)


def names_a_circumstance(name: str) -> bool:
    found = words(name)
    within = any(word.endswith(one) for word in found for one in _CIRCUMSTANCES if len(one) > 4)
    return bool(set(found) & _CIRCUMSTANCES) or within or names_a_time(name)


def names_a_time(name: str) -> bool:
    return any(word.endswith(_TIMES) for word in words(name)[-1:])


def names_an_occasion(name: str) -> bool:
    """Tells whether a column of few values is when it was asked, as of all the same times."""
    return bool({*words(name)[-1:]} & _OCCASIONS)


def names_a_duration(name: str) -> bool:
    return bool({*words(name)[-1:]} & _DURATIONS)


def names_a_censoring(name: str) -> bool:
    return bool({*words(name)} & _CENSORED) or words(name) == ["delta"]


def names_a_measure(name: str) -> bool:
    return bool(set(words(name)) & _MEASURES)


def is_the_subject(name: str, file: str) -> bool:
    """Tells whether a column is what the file is named after: the last words of both are one word, as of
    `time_to_delivery` and `deliveries`.
    """
    one, two = words(name), words(file)
    return bool(one and two) and _alike(one[-1], two[-1])


def names_the_file(name: str, file: str) -> bool:
    return "".join(words(name)) == "".join(words(file)) != ""


def _ends(found: list[str], known: frozenset[str]) -> bool:
    """Tells whether the last word is known, ends with a known one, or is the logarithm of one: `brcancer`,
    `lwage`.
    """
    return any(
        {last, last.removeprefix("l")} & known or any(last.endswith(word) for word in known if len(word) > 3)
        for last in found[-1:]
    )


def _alike(one: str, other: str) -> bool:
    if one == other:
        return len(one) >= 3
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    shorter, longer = sorted((len(one), len(other)))
    return shared >= max(4, 0.8 * shorter, 0.5 * longer)
