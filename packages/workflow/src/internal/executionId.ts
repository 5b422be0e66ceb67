/**
 * Ids of executions and of messages: the same in every process and at every redelivery.
 */
import { Correlation, type Envelope, Message } from "@millrace/core"

/** The most bytes of an execution's id, and so of a key: the limit of Temporal. */
export const longestId = 1000

/**
 * Makes the id of an execution: `WORKFLOW/KEY`, and `WORKFLOW/KEY#2` for its second generation. A `#` of the key is doubled,
 * so an odd number of them before the last digits always begins a generation.
 */
export const executionId = (workflow: string, key: string, generation: number): string => {
  const id = `${workflow}/${key.includes("#") ? key.replaceAll("#", "##") : key}`
  return generation === 1 ? id : `${id}#${generation}`
}

/** The identity that a sender gave to its message: CloudEvents' source and id, or `message-id`. */
const ownOf = ({ headers }: Envelope): string | undefined => {
  const event = headers["ce_id"] ?? headers["ce-id"]
  if (event !== undefined) return `${headers["ce_source"] ?? headers["ce-source"] ?? ""}#${event}`
  const own = headers[Correlation.names.message]
  return own === "" ? undefined : own
}

/**
 * Identifies a message: by its sender's id, else by the place where it was first read, `CHANNEL/PARTITION/POSITION`, which is the
 * same after a redelivery and in a retry channel. Undefined for a request without an id.
 */
export const identityOf = (message: Envelope): string | undefined =>
  ownOf(message) ??
    (message instanceof Message ? `${message.channel}/${message.partition}/${message.position}` : undefined)
