"""One file of request records being read: its format, its own header, and the checks that span chunks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from simulator.workload.columns import MOST_REQUESTS, RawChunk
from simulator.workload.items import Media
from simulator.workload.parts import WHOLE_HINT, NotStreamableError
from simulator.workload.traces.agentic_sessions import AFTER, THINK_S, call_keys, call_records, is_session
from simulator.workload.traces.containers import Container
from simulator.workload.traces.csv_traces import csv_header, iter_csv
from simulator.workload.traces.data_frames import frame_chunk
from simulator.workload.traces.formats import RecordFormat, TimeUnit, choose_format
from simulator.workload.traces.json_traces import iter_json_list, iter_jsonl, iter_line_records
from simulator.workload.traces.own_files import parquet_header
from simulator.workload.traces.parquet_traces import count_rows, iter_parquet, parquet_keys
from simulator.workload.traces.record_checks import RecordChecker, Requests
from simulator.workload.traces.record_chunks import chunk_columns
from simulator.workload.workload import OpenLoop, PrefixBlocks, Workload

Turns = Literal["recorded", "after_parent"]


class RecordReader:
    """Reads the records of one file, whole or in chunks; raises UserError naming file, line, key and value."""

    __slots__ = ("_checker", "_container", "_header", "_sort", "_table", "_turns", "file", "fmt")

    def __init__(
        self,
        file: Path,
        container: Container,
        *,
        format_name: str,
        columns: Mapping[str, str],
        time_unit: TimeUnit | None,
        block_tokens: int | None,
        sort: bool,
        turns: Turns,
        rate_scale: float,
        table: Mapping[str, Sequence[Any]] | None,
    ) -> None:
        self.file = file
        self._container = container
        self._sort = sort
        self._turns = turns
        self._table = table
        self._header = parquet_header(file) if container.kind == "parquet" else container.header
        keys = self._keys()
        fmt = choose_format(str(file), format_name, keys, columns, time_unit)
        if self._holds_sessions:
            fmt = replace(fmt, after=AFTER, think_s=THINK_S)
        has_blocks = any(key in keys for key in (fmt.hash_ids, fmt.token_ids) if key is not None)
        if block_tokens is not None and not has_blocks:
            raise UserError(f"{file}: --block-tokens has no use: the records hold no prefix blocks")
        if turns == "after_parent" and fmt.parent_id not in keys and fmt.after not in keys:
            raise UserError(f"{file}: --turns after_parent has no use: the records name no parent")
        self.fmt: RecordFormat = replace(
            fmt, block_tokens=block_tokens or self._header.block_tokens or fmt.block_tokens
        )
        self._checker = RecordChecker(path=str(file), fmt=self.fmt, sort=sort, rate_scale=rate_scale)

    @property
    def is_table(self) -> bool:
        """Whether the file is one document that holds its columns whole."""
        return self._table is not None

    @property
    def _holds_sessions(self) -> bool:
        return self._container.kind == "lines" and is_session(self._container.first)

    def _keys(self) -> Sequence[str]:
        if self._table is not None:
            return list(self._table)
        if self._holds_sessions:
            return call_keys(self._container.first)
        if self._container.kind == "csv":
            return csv_header(self.file)
        return parquet_keys(self.file) if self._container.kind == "parquet" else list(self._container.first)

    def read_whole(self, chunk_requests: int, limit: int | None) -> Workload:
        """Return the file's first ``limit`` requests (by time where it is to be sorted) as one workload."""
        if self._container.kind == "parquet" and (limit is None or self._sort):
            self._check_count(count_rows(self.file))
        parts: list[Requests] = []
        count = 0
        for part in self._iter_requests(chunk_requests):
            parts.append(part)
            count += len(part)
            if limit is not None and not self._sort and count >= limit:
                break
            self._check_count(count)
        self._checker.check_whole()
        return self._assemble(parts, limit=limit, origin_s=self._checker.first_s if self._sort else 0.0)

    def iter_workloads(self, chunk_requests: int, limit: int | None) -> Iterator[Workload]:
        """Yield the file's first ``limit`` requests as consecutive workloads; their names are not compared."""
        left = limit
        self._checker.is_streamed = True
        for part in self._iter_requests(chunk_requests):
            chunk = self._assemble([part], limit=left, origin_s=0.0)
            if chunk.after is not None:
                raise NotStreamableError(
                    f"{self.file} cannot be streamed: turns follow the answers of earlier ones", hint=WHOLE_HINT
                )
            yield chunk
            if left is not None:
                left -= len(chunk)
                if left <= 0:
                    break
        self._checker.check_whole()

    def _check_count(self, count: int) -> None:
        if count > MOST_REQUESTS:
            raise UserError(
                f"{self.file}: holds {count:,} requests and more, at most {MOST_REQUESTS:,} are read whole",
                hint="--limit N reads the first N",
            )

    def _iter_requests(self, chunk_requests: int) -> Iterator[Requests]:
        """Yield the file's requests, checked, chunk by chunk."""
        for chunk in self._chunks(chunk_requests):
            requests = self._checker.check(chunk)
            if len(requests):
                yield requests

    def _chunks(self, chunk_requests: int) -> Iterator[RawChunk]:
        required, optional = self.fmt.required_keys(), self.fmt.optional_keys()
        if self._table is not None:
            return iter([frame_chunk(self.file, self._table, required, optional)])
        if self._holds_sessions:
            calls = call_records(str(self.file), iter_line_records(self.file, chunk_requests))
            return chunk_columns(str(self.file), calls, required, optional)
        if self._container.kind == "csv":
            return iter_csv(self.file, required, optional, chunk_requests)
        if self._container.kind == "parquet":
            return iter_parquet(self.file, required, optional, chunk_requests)
        if self._container.kind == "list":
            return iter_json_list(self.file, required, optional, chunk_requests)
        return iter_jsonl(self.file, required, optional, chunk_requests, header_lines=self._header.lines)

    def _assemble(self, parts: Sequence[Requests], *, limit: int | None, origin_s: float) -> Workload:
        """Join checked parts into one workload of at most ``limit`` requests."""
        arrival_s = np.concatenate([part.arrival_s for part in parts])
        order = np.argsort(arrival_s, kind="stable") if self._sort else np.arange(len(arrival_s))
        order = order[:limit]

        def column(name: str) -> NDArray[np.int64] | None:
            values = [getattr(part, name) for part in parts]
            return None if any(value is None for value in values) else np.concatenate(values)[order]

        prompt, output = column("prompt_tokens"), column("output_tokens")
        assert prompt is not None
        assert output is not None
        after, think_s = self._links(parts, arrival_s, order)
        return Workload(
            name=self.file.name.split(".")[0],
            arrival_s=arrival_s[order] - origin_s if origin_s else arrival_s[order],
            prompt_tokens=prompt,
            output_tokens=output,
            client=self._header.client or OpenLoop(),
            prefix=self._prefix(parts, order),
            after=after,
            think_s=think_s,
            replica=column("replica"),
            media=self._media(parts, order),
            notes=self._checker.notes(),
        )

    def _media(self, parts: Sequence[Requests], order: NDArray[np.int64]) -> Media | None:
        if not any(part.images is not None or part.audio_s is not None for part in parts):
            return None
        images = [sizes for part in parts for sizes in part.images or [()] * len(part)]
        clips = [seconds for part in parts for seconds in part.audio_s or [()] * len(part)]
        chosen = order.tolist()
        return Media.of_requests(
            [images[i] for i in chosen],
            [clips[i] for i in chosen],
            are_counted=self._header.prompt_counts_media,
        )

    def _prefix(self, parts: Sequence[Requests], order: NDArray[np.int64]) -> PrefixBlocks | None:
        counts_of = [part.block_counts for part in parts]
        ids_of = [part.block_ids for part in parts]
        if any(counts is None for counts in counts_of):
            return None
        counts = np.concatenate([c for c in counts_of if c is not None])
        ids = np.concatenate([i for i in ids_of if i is not None])
        starts = np.cumsum(counts) - counts
        offsets = np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64)
        positions = np.repeat(starts[order] - offsets[:-1], counts[order]) + np.arange(offsets[-1])
        assert self.fmt.block_tokens is not None
        return PrefixBlocks(block_tokens=self.fmt.block_tokens, offsets=offsets, ids=ids[positions])

    def _links(
        self,
        parts: Sequence[Requests],
        arrival_s: NDArray[np.float64],
        order: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
        """Which request each follows, and the pause between; None where all are sent at their own times."""
        parents_of = [part.parent for part in parts]
        recorded_think = [part.think_s for part in parts]
        links_are_stated = all(think is not None for think in recorded_think)
        if any(p is None for p in parents_of) or not (links_are_stated or self._turns == "after_parent"):
            return None, None
        parents = np.concatenate([p for p in parents_of if p is not None])
        has_parent = parents >= 0
        if links_are_stated:
            think_s = np.concatenate([t for t in recorded_think if t is not None])
        else:
            # The record has no service times: the whole gap counts as thinking, an upper bound of it.
            think_s = np.where(has_parent, np.maximum(arrival_s - arrival_s[np.maximum(parents, 0)], 0.0), 0.0)
        rank = np.full(len(parents), -1, dtype=np.int64)
        rank[order] = np.arange(len(order))
        after = np.where(has_parent, rank[np.maximum(parents, 0)], -1)[order]
        if (after >= np.arange(len(after))).any():
            late = int(np.argmax(after >= np.arange(len(after))))
            raise UserError(
                f"{self.file}: request {late + 1} by arrival follows request {after[late] + 1}, a later one"
            )
        return after, think_s[order]
