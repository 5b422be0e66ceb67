/**
 * What the command and its worker processes say to each other.
 */

/** A test, and what it does without a mutant. */
export interface Test {
  /** A path inside `test/`. */
  readonly file: string
  readonly name: string
  /** Milliseconds. */
  readonly time: number
  /** Milliseconds of `time` in which the process waited. */
  readonly idle: number
  /** The switches that it meets. */
  readonly hits: ReadonlyArray<number>
}

/** What the tests of a file do without a mutant. */
export interface Survey {
  readonly file: string
  readonly tests: ReadonlyArray<Test>
  /** The switches that are met while the file loads; only a process of its own shows what their mutants do. */
  readonly static: ReadonlyArray<number>
  /** Tests that do not pass twice in a row, and why; they kill nothing. */
  readonly refused: ReadonlyArray<string>
}

export type Request =
  | { readonly _tag: "survey"; readonly file: string }
  /** `isFresh`: the mutant is on while the tests load. `mutant` is undefined where the copy itself is the mutant. */
  | {
    readonly _tag: "run"
    readonly mutant: number | undefined
    readonly isFresh: boolean
    readonly tests: ReadonlyArray<Pick<Test, "file" | "name" | "time" | "idle">>
  }

/** How a mutant ended. */
export type Verdict =
  | { readonly _tag: "killed"; readonly by: string; readonly why: string }
  | { readonly _tag: "timed out"; readonly by: string }
  | { readonly _tag: "survived" }

export type Reply =
  | { readonly _tag: "surveyed"; readonly survey: Survey }
  | { readonly _tag: "began"; readonly test: string; readonly limit: number }
  /** `spoiled`: the test fails or hangs without the mutant too, so that this process has to be replaced. */
  | { readonly _tag: "verdict"; readonly verdict: Verdict; readonly spoiled: boolean; readonly ran: number }
