/**
 * What a start keeps in the memo of its execution: the claim, and the context that activities get.
 */

/** The name in the memo, and of the header between client, workflow and activities. */
export const name = "millrace"

/** The kept part of a start. */
export interface Kept {
  readonly fingerprint: string
  readonly startedBy: string
  readonly headers: { readonly [name: string]: string }
}

/** Reads the memo of an execution; undefined if another program has started it. */
export const read = (memo: { readonly [name: string]: unknown } | undefined): Kept | undefined => {
  const kept = memo?.[name]
  return typeof kept === "object" && kept !== null && "fingerprint" in kept && "startedBy" in kept && "headers" in kept
    // written by this package
    ? kept as Kept
    : undefined
}
