"""The student's life: stream a store, distil, evaluate, report. It never loads a teacher."""
