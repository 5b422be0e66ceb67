/** A value that both databases bind. */
export type Value = string | number | null

/** The columns of an audit row without its id, in the order of writing. Keep this file free of imports: a thread reads it. */
export const columns = [
  "kind",
  "channel",
  "partition",
  "position",
  "key",
  "body",
  "handler",
  "attempt",
  "started_at",
  "completed_at",
  "duration",
  "status",
  "error_tag",
  "error_message"
] as const
