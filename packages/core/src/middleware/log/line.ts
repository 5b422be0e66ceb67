/**
 * Writes one line from a fiber to its loggers.
 */
import { type Cause, Clock, Context, DateTime, type Fiber, LogLevel, References } from "effect"
import * as Lost from "../../telemetry/Lost.ts"

/** Annotations of a line. */
export type Fields = Record<string, unknown>

/** Nanoseconds as milliseconds. */
export const millis = (nanos: bigint): number => Number(nanos / 1000n) / 1000

/** Hands one line to every logger of the fiber. A logger that throws does not harm the message. */
export const write = (
  fiber: Fiber.Fiber<unknown, unknown>,
  line: { readonly level: LogLevel.Severity; readonly text: string; readonly cause: Cause.Cause<unknown> },
  fields: Fields
): void => {
  const context = fiber.context
  const date = DateTime.toDateUtc(DateTime.makeUnsafe(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()))
  const annotations = { ...fiber.getRef(References.CurrentLogAnnotations), ...fields }
  fiber.setContext(Context.add(context, References.CurrentLogAnnotations, annotations) as Context.Context<never>)
  for (const logger of fiber.getRef(References.CurrentLoggers)) {
    try {
      logger.log({ fiber, date, cause: line.cause, logLevel: line.level, message: [line.text] })
    } catch (defect) {
      // losing a line is better than failing the message
      Lost.tell("A logger", defect)
    }
  }
  fiber.setContext(context)
}

/** Whether lines of the level are written. */
export const isEnabled = (fiber: Fiber.Fiber<unknown, unknown>, level: LogLevel.Severity): boolean =>
  !LogLevel.isGreaterThan(fiber.cache.minimumLogLevel, level)
