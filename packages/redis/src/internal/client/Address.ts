/**
 * Parses and prints addresses of servers.
 */
import { DriverOptions } from "@millrace/core"

/** The host and port of a server. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** Prints `host:port`; an IPv6 address stands in brackets. */
export const textOf = ({ host, port }: Address): string => `${host.includes(":") ? `[${host}]` : host}:${port}`

/** Reads `host:port`; `port` is the default. */
export const parse = (option: string, text: string, port: number): Address => {
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/@[\]]+))(?::(\d{1,5}))?$/.exec(text.trim())
  const host = found?.[1] ?? found?.[2]
  const given = found?.[3] === undefined ? port : Number(found[3])
  if (host === undefined || given < 1 || given > 65_535) {
    // the text may hold a password
    return DriverOptions.bad(
      `${option} must hold addresses such as redis-1:${port} or [::1]:${port}, without user or password`
    )
  }
  return { host, port: given }
}

/** Reads a list of addresses. */
export const list = (option: string, texts: ReadonlyArray<string>, port: number): ReadonlyArray<Address> => {
  if (!Array.isArray(texts) || texts.length === 0) return DriverOptions.bad(`${option} must hold at least one address`)
  return texts.map((text) => parse(option, String(text), port))
}

/** Reads `host:port` as a server wrote it; the host may be missing, and an IPv6 address may have no brackets. */
export const read = (text: string): Address => {
  const at = text.lastIndexOf(":")
  return { host: text.slice(0, at).replace(/^\[|\]$/g, ""), port: Number(text.slice(at + 1)) }
}
