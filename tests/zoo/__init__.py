"""An open zoo of healthy and faulty training runs, by which the findings are judged."""
