/**
 * Text for a terminal: colours where somebody sees them, numbers and columns that line up.
 */
export const isTerminal = process.stdout.isTTY

const colours = isTerminal && !process.env["NO_COLOR"]

const style = (code: number) => (text: string): string => colours ? `\x1b[${code}m${text}\x1b[0m` : text

export const bold = style(1)
export const dim = style(2)
export const red = style(31)
export const green = style(32)

export const count = (n: number): string => n.toLocaleString("en-US")

export const millis = (ms: number): string => `${ms.toFixed(ms < 10 ? 2 : 0)} ms`

/** Lines under a heading. */
export const section = (heading: string, lines: ReadonlyArray<string>): string =>
  ["", bold(heading), ...lines.map((line) => `  ${line}`)].join("\n")

/** Rows in columns; numbers stand to the right, the last column is cut where the line ends. */
export const table = (rows: ReadonlyArray<ReadonlyArray<string | number>>): ReadonlyArray<string> => {
  const texts = rows.map((row) => row.map((cell) => typeof cell === "number" ? count(cell) : cell))
  const widths = (texts[0] ?? []).map((_, column) => Math.max(...texts.map((row) => row[column]?.length ?? 0)))
  return texts.map((row, r) =>
    row.map((text, column) => {
      const width = widths[column] ?? 0
      return typeof rows[r]?.[column] === "number" ? text.padStart(width) : text.padEnd(width)
    }).join("  ").trimEnd().slice(0, 116)
  )
}
