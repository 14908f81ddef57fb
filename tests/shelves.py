"""A rule of import-linter for rooms whose files say by their prefix on which shelf they stand."""

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class ShelvesContract(Contract):
    """A file imports only from its own shelf and from those below it.

    Options of the contract:
        room: the package whose files stand on shelves.
        shelves: from the top one down, the prefixes of each, separated by ``|``. The longest prefix of a file's name
            decides. A file without a shelf breaks the contract.
    """

    type_name = "shelves"

    room = fields.StringField()
    shelves = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        floors = {prefix.strip(): -row for row, shelf in enumerate(self.shelves) for prefix in str(shelf).split("|")}
        places, faults = {}, []
        for module in sorted(graph.find_children(str(self.room))):
            name = module.rsplit(".", 1)[1]
            prefixes = [prefix for prefix in floors if name.startswith(prefix)]
            if prefixes:
                places[module] = floors[max(prefixes, key=len)]
            else:
                faults.append(f"{module} stands on no shelf: its name begins with none of {sorted(floors)}")
        for module in places:
            for imported in sorted(graph.find_modules_directly_imported_by(module) & places.keys()):
                if places[imported] > places[module]:
                    faults.append(f"{module} imports {imported}, which stands on a higher shelf")
        return ContractCheck(kept=not faults, metadata={"faults": faults})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for fault in check.metadata["faults"]:
            output.print_error(fault)
