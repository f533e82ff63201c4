"""The observers that a recipe can name: every Observer in a file of this folder."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

import quamba_export.calib.observers as package
from quamba_export.calib.observers.observer import Observer, refuse_unknown
from quamba_export.runtime.errors import QuambaError


def find_observers() -> dict[str, type[Observer]]:
    """The observers by kind, alphabetically. Raises RuntimeError for two of one kind."""
    found: dict[str, type[Observer]] = {}
    for observer in _observers():
        if observer.kind in found:
            raise RuntimeError(f"{found[observer.kind]} and {observer} are both of kind '{observer.kind}'")
        found[observer.kind] = observer
    return dict(sorted(found.items()))


def _observers() -> Iterator[type[Observer]]:
    names = sorted(f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__))
    for name in names:
        if name not in (__name__, Observer.__module__):
            for value in vars(import_module(name)).values():
                if isinstance(value, type) and issubclass(value, Observer) and value.__module__ == name:
                    yield value


OBSERVERS = find_observers()


def observer_from_table(table: Mapping[str, Any], where: str) -> Observer:
    """The observer of a recipe's table; raises QuambaError, naming `where`, for an unknown kind or option."""
    kind = str(table.get("kind"))
    refuse_unknown([kind], OBSERVERS, f"observer kind in {where}")
    observer = OBSERVERS[kind]
    options = {name: value for name, value in table.items() if name != "kind"}
    refuse_unknown(options, [field.name for field in fields(observer)], f"option of {kind} in {where}")  # type: ignore[arg-type]
    return observer(**options)


def observers_from_tables(tables: Mapping[str, Any], where: str) -> dict[str, Observer]:
    """Observers by site. Raises QuambaError as observer_from_table does, and for what is no table."""
    for site, options in tables.items():
        if not isinstance(options, Mapping):
            found, allowed = repr(options), '{ kind = "absmax" }'
            raise QuambaError(f"{where}.{site} is no table", found=found, allowed=allowed)
    return {site: observer_from_table(options, f"{where}.{site}") for site, options in tables.items()}
