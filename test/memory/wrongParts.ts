/** What wrong drivers make of right messages and errors. */
import { BrokerError, Delivery } from "@millrace/core"

export const copy = (
  delivery: Delivery,
  parts: { readonly tombstone?: boolean; readonly attempt?: number }
): Delivery =>
  new Delivery(
    delivery.origin,
    delivery.reader,
    delivery.native,
    delivery.at,
    delivery.payload,
    parts.attempt ?? delivery.attempts,
    parts.tombstone ?? delivery.tombstone
  )

export const utf8 = (bytes: Uint8Array): Uint8Array => new TextEncoder().encode(new TextDecoder().decode(bytes))

export const renamed = (error: BrokerError.BrokerError): BrokerError.BrokerError =>
  BrokerError.make({ system: "wrong", operation: error.operation, reason: "Unknown", message: error.message })
