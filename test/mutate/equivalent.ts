/**
 * Mutants that no test can kill, since they change nothing that can be seen, each with the reason. They count neither as
 * killed nor as survived.
 */

export interface Equivalent {
  /** A path inside `packages/core/src`. */
  readonly file: string
  /** The line of the source that holds the mutant, without its indentation. */
  readonly line: string
  readonly operator: string
  /** As the report prints them. */
  readonly original: string
  readonly mutated: string
  readonly reason: string
}

export const equivalents: ReadonlyArray<Equivalent> = [
  {
    file: "memory/MemoryLog.ts",
    line: "return outgoing.native?.fields === undefined ? outgoing.headers : Headers.fromFields(outgoing.fields)",
    operator: "condition",
    original: "outgoing.native?.fields === undefined",
    mutated: "false",
    reason: "Text headers come back equal from their fields; the branch saves the conversion."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "if (mask >= smallest && this.end - this.base < mask / 8) this.resize((mask + 1) / 4)",
    operator: "operand",
    original: "mask >= smallest",
    mutated: "true",
    reason:
      "A list of the smallest length shrinks too and grows again: the same messages at the same positions, and less memory."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "if (mask >= smallest && this.end - this.base < mask / 8) this.resize((mask + 1) / 4)",
    operator: "boundary",
    original: "mask >= smallest",
    mutated: "mask > smallest",
    reason: "The mask is a power of two less one, and `smallest` is a power of two: they are never equal."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "if (mask >= smallest && this.end - this.base < mask / 8) this.resize((mask + 1) / 4)",
    operator: "boundary",
    original: "this.end - this.base < mask / 8",
    mutated: "this.end - this.base <= mask / 8",
    reason: "A power of two less one, divided by 8, is no integer: the two sides are never equal."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "for (let position = this.base; position < this.end; position++) {",
    operator: "boundary",
    original: "position < this.end",
    mutated: "position <= this.end",
    reason: "The place after the last message is copied too; the next append writes over it before anything reads it."
  }
]
