"""Lays out and draws the pictures of the `pathfinder` task.

A paddle is a short line. A snake is a chain of paddles with gaps of twice the margin.

- Two long snakes, the targets, begin in the middle of the picture, `seed_distance` apart. They grow in turns, paddle
  by paddle, until both have their length. If one of them has no room left, both begin anew.
- Short snakes, the distractors, are then placed wherever there is room.
- The next paddle of a snake starts at a pivot, one margin beyond the last paddle. Its far end is a pixel at the
  distance of one margin and one paddle from the pivot. A pixel that turns the snake by the angle δ has the weight
  ``cos²(continuity · δ)``, or zero if ``continuity · δ`` is a right angle or more.
- A paddle owns all pixels within one margin of it. Two paddles own no common pixel, unless they are neighbours in a
  snake. So the distance of other paddles is at least about the width of the gaps within a snake.

All positions are whole pixels. A set of pixels is one Python integer with one bit per pixel, and the few paddles that
can follow a pivot are drawn once. So a picture of 32 x 32 pixels takes three milliseconds.
"""

import math
from bisect import bisect
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np


#: A pixel is divided into FINE x FINE sub-pixels; its ink is the share of sub-pixels that are covered.
FINE = 8
#: Tolerance of comparisons that would be ties with exact numbers.
TOLERANCE = 1e-9
#: How often two long snakes are begun before giving up. Snakes that can be placed at all never need so many.
ATTEMPTS = 100_000

#: Row and column.
Pixel = tuple[int, int]


@dataclass(frozen=True)
class Parameters:
    """What pictures look like. Lengths of snakes are in paddles, all other lengths in pixels.

    Attributes:
        size: height and width of a picture.
        contour_length: the number of paddles in each of the two long snakes.
        distractor_length: the number of paddles in each short snake.
        distractors: the largest number of short snakes; a short snake that finds no room is left out.
        margins: the margin of a picture is drawn from these.
        paddle_length: length of a paddle.
        paddle_thickness: width of a paddle.
        padding: width of the border that no paddle may touch, at least one.
        seed_distance: distance between the beginnings of the long snakes. Both begin at least twice as far from the
            borders.
        marker_radius: radius of the two circles.
        continuity: the larger it is, the less a snake turns.
        snake_contrast: brightness of a short snake; a circle has brightness 1.
        paddle_contrast: brightness of a long snake, relative to that of a short snake.
        paddle_trials: how often the next paddle of a snake is drawn at random until one has room.
        distractor_trials: how often each short snake is begun.
    """

    size: int
    contour_length: int
    distractor_length: int
    distractors: int
    margins: tuple[int, ...]
    paddle_length: int
    paddle_thickness: float
    padding: int
    seed_distance: int
    marker_radius: float
    continuity: float
    snake_contrast: float
    paddle_contrast: float
    paddle_trials: int = 3
    distractor_trials: int = 5

    def __post_init__(self) -> None:
        if self.size <= 4 * self.seed_distance:
            raise ValueError(f"nothing is {2 * self.seed_distance} pixels from the borders of {self.size} pixels")
        if self.padding < 1:
            # The pivot of a snake that ends at the border would be outside of the picture.
            raise ValueError(f"padding ({self.padding}) must be at least 1")
        if min(self.contour_length, self.distractor_length) < 2:
            raise ValueError("snakes have at least two paddles")


@dataclass(frozen=True)
class Stamp:
    """A paddle around its anchor, which is the pixel of one of its ends.

    Attributes:
        reach: the vector from the anchor to the other end.
        ink: the covered share of each pixel, ``[2 radius + 1, 2 radius + 1]`` with the anchor in the middle.
        own: the pixels that the paddle owns, as bits of a window of the board.
    """

    reach: tuple[float, float]
    ink: np.ndarray
    own: int


@dataclass
class Step:
    """A paddle that can follow a pivot.

    Attributes:
        stamp: the paddle that is added, anchored at its far end.
        offset: the difference of positions from the pivot to the far end.
        advance: the difference of positions from the pivot to the next pivot.
        successors: the steps that may follow, with their weights.
    """

    stamp: Stamp
    offset: int
    advance: int
    successors: list[tuple[float, "Step"]] = field(default_factory=list)


@dataclass(frozen=True)
class Seed:
    """The first paddle of a snake, anchored at the end where the snake begins.

    Attributes:
        stamp: the paddle.
        head: the difference of positions from the beginning to the pixel at the far end.
        advance: the difference of positions from the beginning to the first pivot.
        successors: the steps that may follow, with their weights.
    """

    stamp: Stamp
    head: int
    advance: int
    successors: list[tuple[float, Step]]


class Snake:
    """A snake while it grows. Positions are numbers of pixels on the board.

    Attributes:
        paddles: the position of the anchor, and the stamp, of every paddle.
        pivot: the position where the next paddle starts.
        successors: the steps that may come next.
        tip: the pixels that the last paddle owns.
        body: the pixels that the other paddles own.
    """

    def __init__(self, start: int, seed: Seed) -> None:
        self.paddles = [(start, seed.stamp)]
        self.pivot = start + seed.advance
        self.successors = seed.successors
        self.tip = seed.stamp.own << start
        self.body = 0

    @property
    def own(self) -> int:
        """All pixels that the snake owns."""
        return self.body | self.tip

    def grow(self, step: Step) -> None:
        """Add a paddle."""
        far_end = self.pivot + step.offset
        self.paddles.append((far_end, step.stamp))
        self.body |= self.tip
        self.tip = step.stamp.own << far_end
        self.pivot += step.advance
        self.successors = step.successors


class Board:
    """The pixels of a picture and around it, for one margin.

    The pixel in row ``r`` and column ``c`` has the position ``(r + radius) · width + c``. Its bit in a set of pixels
    lies `radius` rows and columns further. A set that is shifted right by a position is the window around it.
    """

    def __init__(self, parameters: Parameters, margin: int) -> None:
        self.parameters, self.margin = parameters, margin
        self.radius = parameters.paddle_length + margin + math.ceil(parameters.paddle_thickness)
        self.width = parameters.size + 2 * self.radius
        inside = np.zeros((parameters.size + 4 * self.radius, self.width), dtype=bool)
        low, high = parameters.padding, parameters.size - parameters.padding
        inside[2 * self.radius + low : 2 * self.radius + high, self.radius + low : self.radius + high] = True
        #: Pixels that no paddle may own.
        self.border = self._bits(~inside)
        rows, columns = np.ogrid[-self.radius : self.radius + 1, -self.radius : self.radius + 1]
        #: The pixels of a window within one margin of its middle.
        self.disc = self._bits(rows**2 + columns**2 <= margin**2)
        #: The way back from a pivot to the corner of all windows around far ends, and the rows of these windows.
        far = parameters.paddle_length + margin
        self.corner = far * (self.width + 1)
        self.neighbourhood = (1 << (2 * (far + self.radius) + 1) * self.width) - 1

    def _bits(self, window: np.ndarray) -> int:
        """Turn a boolean array, which starts at the corner of the board, into a set of pixels."""
        rows = np.zeros((len(window), self.width), dtype=bool)
        rows[:, : window.shape[1]] = window
        return int.from_bytes(np.packbits(rows, bitorder="little").tobytes(), "little")

    def along(self, distance: float, angle: float) -> int:
        """The difference of positions for a distance and an angle, rounded to the nearest pixel."""
        row, column = (math.floor(distance * part + 0.5 + TOLERANCE) for part in (math.sin(angle), math.cos(angle)))
        return row * self.width + column

    def position(self, row: int, column: int) -> int:
        """The position of a pixel."""
        return (row + self.radius) * self.width + column

    def pixel(self, position: int) -> Pixel:
        """The row and the column of a position in the picture."""
        row, column = divmod(position, self.width)
        return row - self.radius, column

    def stamp(self, angle: float) -> Stamp:
        """Draw the paddle that points from its anchor at an angle."""
        length, thickness = self.parameters.paddle_length, self.parameters.paddle_thickness
        direction = (math.sin(angle), math.cos(angle))
        reach = (length * direction[0], length * direction[1])
        within = np.arange(-self.radius, self.radius + 1)[:, None] + (np.arange(FINE) + 0.5) / FINE - 0.5
        covered = distances(within.ravel(), direction, length) <= thickness / 2 + TOLERANCE
        side = 2 * self.radius + 1
        ink = covered.reshape(side, FINE, side, FINE).mean(axis=(1, 3), dtype=np.float32)
        whole = distances(np.arange(-self.radius, self.radius + 1), direction, length)
        return Stamp(reach, ink, self._bits(whole <= self.margin + TOLERANCE))

    @cached_property
    def steps(self) -> list[tuple[float, Step]]:
        """All steps that can follow a pivot, with their angles, linked to their successors."""
        length = self.parameters.paddle_length
        distance = length + self.margin
        angles = np.arange(0, 2 * math.pi, 1 / distance)
        ends = {tuple(np.floor(distance * np.array([np.sin(a), np.cos(a)]) + 0.5).astype(int)) for a in angles}
        steps = []
        for row, column in sorted(ends):
            angle = math.atan2(row, column)
            advance = self.along(length + 2 * self.margin, angle)
            step = Step(self.stamp(angle + math.pi), int(row) * self.width + int(column), advance)
            steps.append((angle, step))
        for angle, step in steps:
            step.successors = self._successors(angle, steps)
        return steps

    def _successors(self, angle: float, steps: list[tuple[float, Step]]) -> list[tuple[float, Step]]:
        weighted = []
        for other, step in steps:
            turn = abs(math.remainder(other - angle, 2 * math.pi)) * self.parameters.continuity
            if turn < math.pi / 2 - TOLERANCE:
                weighted.append((math.cos(turn) ** 2, step))
        return weighted

    @cached_property
    def seeds(self) -> list[Seed]:
        """First paddles, at all whole degrees."""
        length = self.parameters.paddle_length
        seeds = []
        for degrees in range(360):
            angle = math.radians(degrees)
            head, pivot = self.along(length, angle), self.along(length + self.margin, angle)
            seeds.append(Seed(self.stamp(angle), head, pivot, self._successors(angle, self.steps)))
        return seeds

    def next_step(self, rng: np.random.Generator, snake: Snake, taken: int) -> Step | None:
        """Draw a step by which the snake can grow; None if no step was found.

        Only far ends at least one margin away from the pixels `taken` are drawn. If the whole paddle then has no room,
        another step is drawn, a few times at most.
        """
        corner, disc = self.corner, self.disc
        # Shifts of the neighbourhood of the pivot cost less than shifts of the whole board.
        taken = taken >> snake.pivot - corner & self.neighbourhood
        choices = [(weight, step) for weight, step in snake.successors if not taken >> corner + step.offset & disc]
        ends = list(accumulate(weight for weight, _ in choices))
        if not ends:
            return None
        for _ in range(self.parameters.paddle_trials):
            step = choices[bisect(ends, rng.random() * ends[-1], hi=len(ends) - 1)][1]
            if not taken >> corner + step.offset & step.stamp.own:
                return step
        return None


@lru_cache(maxsize=16)
def board(parameters: Parameters, margin: int) -> Board:
    """Make the board for parameters and a margin, once."""
    return Board(parameters, margin)


def distances(places: np.ndarray, direction: tuple[float, float], length: float) -> np.ndarray:
    """Return the distances of all points with rows and columns in `places` from a line that begins at zero."""
    rows, columns = places[:, None], places[None, :]
    along = np.clip(rows * direction[0] + columns * direction[1], 0, length)
    return np.hypot(rows - along * direction[0], columns - along * direction[1])


@dataclass(frozen=True)
class Paddle:
    """A paddle of a picture.

    Attributes:
        tail: row and column of the end that is nearer to the beginning of the snake.
        head: row and column of the other end.
        anchor: the end that lies on a whole pixel.
        stamp: the stamp of the paddle.
    """

    tail: tuple[float, float]
    head: tuple[float, float]
    anchor: Pixel
    stamp: Stamp


@dataclass(frozen=True)
class Layout:
    """The snakes of a picture.

    Attributes:
        parameters: the parameters of the layout.
        targets: the two long snakes, as lists of paddles.
        distractors: the short snakes, as lists of paddles.
    """

    parameters: Parameters
    targets: list[list[Paddle]]
    distractors: list[list[Paddle]]


def lay_out(rng: np.random.Generator, parameters: Parameters) -> Layout:
    """Lay out the snakes of one picture.

    Raises:
        RuntimeError: there is no room for the two long snakes.
    """
    frame = board(parameters, parameters.margins[_index(rng, len(parameters.margins))])
    for _ in range(ATTEMPTS):
        if (targets := _two_snakes(rng, frame)) is not None:
            break
    else:
        raise RuntimeError(f"{ATTEMPTS:,} times two long snakes found no room; make them shorter than in {parameters}")
    taken = frame.border | targets[0].own | targets[1].own
    distractors = []
    for _ in range(parameters.distractors):
        for _ in range(parameters.distractor_trials):
            if (snake := _short_snake(rng, frame, taken)) is not None:
                taken |= snake.own
                distractors.append(snake)
                break
    return Layout(parameters, [_paddles(frame, s) for s in targets], [_paddles(frame, s) for s in distractors])


def _index(rng: np.random.Generator, count: int) -> int:
    # Faster than `integers`, and exact enough for small counts.
    return int(rng.random() * count)


def _two_snakes(rng: np.random.Generator, frame: Board) -> tuple[Snake, Snake] | None:
    """Grow the two long snakes; None as soon as one of them has no room."""
    parameters = frame.parameters
    low, high = 2 * parameters.seed_distance, parameters.size - 2 * parameters.seed_distance
    seed = frame.seeds[_index(rng, len(frame.seeds))]
    start = frame.position(low + _index(rng, high - low), low + _index(rng, high - low))
    if not all(low <= place < high for place in frame.pixel(start + seed.head)):
        return None
    first = Snake(start, seed)
    taken = frame.border | first.own
    angle = math.radians(_index(rng, 360))
    start += frame.along(parameters.seed_distance, angle)
    seed = frame.seeds[_index(rng, len(frame.seeds))]
    if taken >> start & seed.stamp.own:
        return None
    second = Snake(start, seed)
    for _ in range(parameters.contour_length - 1):
        for snake, other in ((first, second), (second, first)):
            # The last paddle of the snake itself is its neighbour, and not in the way.
            step = frame.next_step(rng, snake, frame.border | snake.body | other.own)
            if step is None:
                return None
            snake.grow(step)
    return first, second


def _short_snake(rng: np.random.Generator, frame: Board, taken: int) -> Snake | None:
    size = frame.parameters.size
    seed = frame.seeds[_index(rng, len(frame.seeds))]
    # All places with room are equally likely. Rarely none is found although there is one: that counts as a failure.
    for _ in range(size**2):
        start = frame.position(_index(rng, size), _index(rng, size))
        if not taken >> start & seed.stamp.own:
            break
    else:
        return None
    snake = Snake(start, seed)
    for _ in range(frame.parameters.distractor_length - 1):
        step = frame.next_step(rng, snake, taken | snake.body)
        if step is None:
            return None
        snake.grow(step)
    return snake


def _paddles(frame: Board, snake: Snake) -> list[Paddle]:
    paddles = []
    for number, (position, stamp) in enumerate(snake.paddles):
        anchor = frame.pixel(position)
        other = (anchor[0] + stamp.reach[0], anchor[1] + stamp.reach[1])
        paddles.append(Paddle(other if number else anchor, anchor if number else other, anchor, stamp))
    return paddles


def mark(rng: np.random.Generator, layout: Layout, connected: bool) -> tuple[Pixel, Pixel]:
    """Choose the centres of the two circles: where one long snake begins, and where it or the other one ends."""
    begin = _index(rng, 2)
    end = begin if connected else 1 - begin
    return layout.targets[begin][0].anchor, layout.targets[end][-1].anchor


def is_connected(layout: Layout, markers: tuple[Pixel, Pixel]) -> bool:
    """Whether the circles lie at the two ends of one snake, found by comparing them with the ends of all snakes.

    Raises:
        ValueError: a circle does not lie at an end of exactly one snake.
    """
    owners = []
    for marker in markers:
        at = [
            number
            for number, snake in enumerate(layout.targets + layout.distractors)
            for end in (snake[0].tail, snake[-1].head)
            if max(abs(end[0] - marker[0]), abs(end[1] - marker[1])) < TOLERANCE
        ]
        if len(at) != 1:
            raise ValueError(f"the circle at {marker} lies at {len(at)} ends of snakes")
        owners += at
    return owners[0] == owners[1]


def ink(snakes: list[list[Paddle]], size: int) -> np.ndarray:
    """Return the share of each pixel that the paddles cover, ``[size, size]``."""
    radius = len(snakes[0][0].stamp.ink) // 2 if snakes else 0
    canvas = np.zeros((size + 2 * radius, size + 2 * radius), dtype=np.float32)
    for snake in snakes:
        for paddle in snake:
            row, column = paddle.anchor
            window = canvas[row : row + 2 * radius + 1, column : column + 2 * radius + 1]
            np.maximum(window, paddle.stamp.ink, out=window)
    return canvas[radius : radius + size, radius : radius + size]


@lru_cache(maxsize=4)
def circle(size: int, radius: float) -> np.ndarray:
    """Return the share of each pixel that a circle covers, ``[2 size - 1, 2 size - 1]`` around the centre."""
    places = (np.arange((2 * size - 1) * FINE) + 0.5) / FINE - 0.5 - (size - 1)
    covered = places[:, None] ** 2 + places[None, :] ** 2 <= radius**2 + TOLERANCE
    shares: np.ndarray = covered.reshape(2 * size - 1, FINE, 2 * size - 1, FINE).mean(axis=(1, 3), dtype=np.float32)
    return shares


def circle_at(marker: Pixel, size: int, radius: float) -> np.ndarray:
    """Return the share of each pixel that the circle around `marker` covers, ``[size, size]``."""
    row, column = marker
    return circle(size, radius)[size - 1 - row : 2 * size - 1 - row, size - 1 - column : 2 * size - 1 - column]


def draw(layout: Layout, markers: tuple[Pixel, ...]) -> np.ndarray:
    """Draw the picture, ``[size, size]`` in unsigned bytes: white on black, with 255 as the brightest pixel."""
    parameters = layout.parameters
    size = parameters.size
    picture = parameters.snake_contrast * ink(layout.distractors, size)
    contrast = parameters.snake_contrast * parameters.paddle_contrast
    np.maximum(picture, contrast * ink(layout.targets, size), out=picture)
    for marker in markers:
        np.maximum(picture, circle_at(marker, size, parameters.marker_radius), out=picture)
    shades: np.ndarray = np.floor(picture * (255 / picture.max()) + 0.5)
    return shades.astype(np.uint8)
