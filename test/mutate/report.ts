/**
 * Puts the results into a table and a list.
 */
import { type Equivalent, equivalents } from "./equivalent.ts"
import { read } from "./copies.ts"
import type { Mutant } from "./operators.ts"
import type { Outcome, Result } from "./Run.ts"

const lineOf = ({ file, line }: Mutant): string => read(file).split("\n")[line - 1]!.trim()

const fits = (entry: Equivalent, mutant: Mutant): boolean =>
  entry.file === mutant.file && entry.operator === mutant.operator && entry.original === mutant.original &&
  entry.mutated === mutant.mutated && entry.line === lineOf(mutant)

/** Why a mutant changes nothing that can be seen, where that is written down. */
export const reasonOf = (mutant: Mutant): string | undefined => equivalents.find((entry) => fits(entry, mutant))?.reason

/** Entries for these files that fit no mutant any more. */
export const stale = (mutants: ReadonlyArray<Mutant>, files: ReadonlyArray<string>): ReadonlyArray<string> =>
  equivalents
    .filter((entry) => files.includes(entry.file) && !mutants.some((mutant) => fits(entry, mutant)))
    .map(({ file, mutated, operator, original }) => `${file}: ${operator} ${original} → ${mutated}`)

/** `file:line:col operator original → mutated` */
export const told = ({ column, file, line, mutated, operator, original }: Mutant): string =>
  `packages/core/src/${file}:${line}:${column} ${operator} ${original} → ${mutated}`

export interface Row {
  readonly name: string
  readonly killed: number
  readonly timedOut: number
  readonly survived: number
  readonly equivalent: number
  /** Killed and timed out in a hundred of all that are not equivalent. */
  readonly score: number
}

const rowOf = (name: string, results: ReadonlyArray<Result>): Row => {
  const count = (tag: Result["verdict"]["_tag"]) => results.filter(({ verdict }) => verdict._tag === tag).length
  const equivalent =
    results.filter(({ mutant, verdict }) => verdict._tag === "survived" && reasonOf(mutant) !== undefined).length
  const [killed, timedOut, survived] = [count("killed"), count("timed out"), count("survived") - equivalent]
  const all = killed + timedOut + survived
  return { name, killed, timedOut, survived, equivalent, score: all === 0 ? 100 : 100 * (killed + timedOut) / all }
}

const folderOf = ({ mutant }: Result): string => mutant.file.split("/")[0]!

export interface Report {
  readonly files: ReadonlyArray<Row>
  readonly folders: ReadonlyArray<Row>
  readonly planted: Row
  readonly tested: number
  readonly wanted: number
  readonly survivors: ReadonlyArray<string>
  readonly refused: ReadonlyArray<string>
}

const byPlace = ({ mutant: a }: Result, { mutant: b }: Result): number =>
  a.file.localeCompare(b.file) || a.line - b.line || a.column - b.column || a.id - b.id

const isPlanted = ({ mutant }: Result): boolean => mutant.operator.startsWith("planted ")

export const reportOf = ({ refused, results, wanted }: Outcome): Report => {
  const generated = results.filter((result) => !isPlanted(result)).toSorted(byPlace)
  const rows = (keyOf: (result: Result) => string) =>
    Object.entries(Object.groupBy(generated, keyOf)).map(([name, group]) => rowOf(name, group ?? []))
  return {
    files: rows(({ mutant }) => mutant.file),
    folders: rows(folderOf),
    planted: rowOf("planted", results.filter(isPlanted)),
    tested: results.length,
    wanted,
    survivors: results
      .toSorted(byPlace)
      .filter(({ mutant, verdict }) => verdict._tag === "survived" && reasonOf(mutant) === undefined)
      .map(({ mutant }) => told(mutant)),
    refused
  }
}

/** Half of the interval that holds the score of all with 95 % certainty, in points; 0 where all were tested. */
const margin = ({ killed, score, survived, timedOut }: Row, part: number): number => {
  const tested = killed + survived + timedOut
  const p = score / 100
  return tested === 0 || part >= 1 ? 0 : 196 * Math.sqrt(p * (1 - p) / tested * (1 - part))
}

export const print = (report: Report): string => {
  const { files, folders, planted, refused, survivors, tested, wanted } = report
  const all = [...files, ...folders.map((row) => ({ ...row, name: `${row.name}/` }))]
  if (planted.killed + planted.survived + planted.timedOut > 0) all.push(planted)
  const width = Math.max(20, ...all.map(({ name }) => name.length))
  const heading = `${"".padEnd(width)}   killed  timed out  survived  equivalent    score`
  const line = ({ equivalent, killed, name, score, survived, timedOut }: Row): string =>
    [
      name.padEnd(width),
      String(killed).padStart(9),
      String(timedOut).padStart(11),
      String(survived).padStart(10),
      String(equivalent).padStart(12),
      `${score.toFixed(1)} %`.padStart(9)
    ].join("")
  const part = tested / Math.max(1, wanted)
  const sample = tested < wanted
    ? [
      `\nA sample of ${tested} of ${wanted} mutants: ` +
      folders.map((row) => `${row.name}/ ${row.score.toFixed(1)} % ± ${margin(row, part).toFixed(1)}`).join(", ")
    ]
    : []
  return [
    ...(refused.length === 0 ? [] : ["Tests that do not run here, or do not pass twice; they kill nothing:"]),
    ...refused.map((text) => `  ${text}`),
    ...(survivors.length === 0 ? [] : ["Survived:"]),
    ...survivors.map((text) => `  ${text}`),
    "",
    heading,
    ...all.map(line),
    ...sample
  ].join("\n")
}
