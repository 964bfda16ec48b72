"""Made-up company reports: paragraphs of nothing in particular, and in most of them one sentence that matters."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

QUIET = "quiet"
EVENTS = {
    "liquidity": (
        "{company} has breached a covenant of its revolving credit facility and asks its lenders for a waiver.",
        "Without new funding {company} cannot repay the bond that falls due in {month}.",
        "The lenders of {company} have frozen the undrawn part of the facility.",
        "{company} postpones the payment of interest on its notes and talks to its creditors.",
    ),
    "outlook": (
        "{company} withdraws its forecast and now expects a loss for the year.",
        "Management cuts the outlook, since orders in {month} fell far below plan.",
        "{company} warns that the margin of the year will be well below its earlier forecast.",
        "The profit warning of {month} was not the last, {company} lowers its outlook again.",
    ),
    "governance": (
        "The chief financial officer of {company} was dismissed with immediate effect.",
        "The auditor of {company} resigned and refuses to sign the accounts.",
        "Prosecutors searched the offices of {company} in {month} on suspicion of bribery.",
        "{company} restates its accounts after an investigation into false invoices.",
    ),
}
_FILLER = (
    "Revenue in the northern region was broadly in line with the previous year.",
    "The share of recurring business rose slightly to {percent} percent.",
    "Capital expenditure went mainly into the renewal of warehouses and vehicles.",
    "The average number of employees was {number}, little changed since {month}.",
    "Currency effects reduced reported sales by less than one percent.",
    "Energy costs stayed on the level of the second quarter.",
    "The board met {number} times and discussed the strategy for the coming years.",
    "Leases are accounted for as in the previous report, no standards changed.",
    "{company} opened two new branches and closed one in {month}.",
    "The tax rate of {percent} percent reflects the mix of countries.",
    "Inventories fell by {percent} percent, helped by shorter delivery times.",
    "The pension plan was valued by independent actuaries as usual.",
    "Customers were satisfied with the service, as the yearly survey shows.",
    "Research continued on materials that need less water and less heat.",
    "The dividend for the previous year was paid in {month}.",
    "Goodwill was tested for impairment, no need for a charge was found.",
    "Travel costs rose, since trade fairs took place again.",
    "The company has hedged {percent} percent of its needs in foreign currencies.",
)
_COMPANIES = ("Alder Freight", "Bright Mills", "Cobalt Foods", "Delta Looms", "Ember Steel", "Fjord Lines")
_MONTHS = ("January", "March", "May", "July", "September", "November")


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        text: its sentences.
        label: what happened, one of `EVENTS`, or `QUIET`.
    """

    text: str
    label: str


def make_reports(count: int, sentences: Sequence[int], *, seed: int) -> list[Report]:
    """`count` reports of each of the lengths `sentences`: a quarter is quiet, the others have an event anywhere."""
    chance = random.Random(seed)  # noqa: S311 (no secret)
    kinds = (QUIET, *EVENTS)
    return [_report(chance, kinds[index % len(kinds)], length) for length in sentences for index in range(count)]


def _report(chance: random.Random, label: str, sentences: int) -> Report:
    chosen = [chance.choice(_FILLER) for _ in range(sentences)]
    if label != QUIET:
        chosen[chance.randrange(sentences)] = chance.choice(EVENTS[label])
    company, month = chance.choice(_COMPANIES), chance.choice(_MONTHS)
    numbers = {"percent": chance.randrange(2, 40), "number": chance.randrange(3, 900)}
    return Report(" ".join(chosen).format(company=company, month=month, **numbers), label)
